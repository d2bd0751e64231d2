"""How much of its GPU's memory a process has taken since it was born, asked of the driver's management library (NVML).

The CUDA calls that tell of memory need a context, and so cannot tell what one takes.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_UUID_BYTES = 96
_MOST_PROCESSES = 256
_UNKNOWN = 2**64 - 1


@dataclass(frozen=True)
class GpuUse:
    """Bytes in use of one GPU, in all and by this process; None where that is not told, as to a process in a container."""

    used_bytes: int
    own_bytes: int | None


class ContextMeter:
    """Made before the process touches its `device`. `look` tells of every GPU that can be seen, by UUID."""

    def __init__(self, device: torch.device, look: "Callable[[], dict[str, GpuUse]] | None" = None) -> None:
        self._look, self._device = look or look_at_gpus, device
        self._before = self._look() if device.type == "cuda" else {}

    def taken_bytes(self) -> int:
        """What this process has of its GPU now; 0 if that cannot be told. What others took or gave up meanwhile counts too
        where the driver does not tell processes apart."""
        if self._device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        uuid = str(torch.cuda.get_device_properties(self._device).uuid)
        use, before = self._look().get(uuid), self._before.get(uuid)
        if use is None or before is None:
            return 0
        return use.own_bytes if use.own_bytes is not None else max(0, use.used_bytes - before.used_bytes)


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]  # fmt: skip


def look_at_gpus(load: Callable[[], Any] = lambda: ctypes.CDLL("libnvidia-ml.so.1")) -> dict[str, GpuUse]:
    """Every GPU's use by its UUID, as torch writes it; none if the library is not there or fails."""
    try:
        nvml = load()
    except OSError:
        return {}
    if nvml.nvmlInit_v2():
        return {}
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    found: dict[str, GpuUse] = {}
    for index in range(count.value):
        gpu = ctypes.c_void_p()
        if not nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(gpu)):
            found |= _look_at(nvml, gpu)
    nvml.nvmlShutdown()
    return found


def _look_at(nvml: Any, gpu: ctypes.c_void_p) -> dict[str, GpuUse]:
    memory, name = _Memory(), ctypes.create_string_buffer(_UUID_BYTES)
    if nvml.nvmlDeviceGetUUID(gpu, name, _UUID_BYTES) or nvml.nvmlDeviceGetMemoryInfo(gpu, ctypes.byref(memory)):
        return {}
    count, processes = ctypes.c_uint(_MOST_PROCESSES), (_Process * _MOST_PROCESSES)()
    nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu, ctypes.byref(count), processes)  # else they stay nobody's
    own = next((each.used for each in processes[: count.value] if each.pid == os.getpid()), _UNKNOWN)
    return {name.value.decode().removeprefix("GPU-"): GpuUse(memory.used, None if own == _UNKNOWN else own)}
