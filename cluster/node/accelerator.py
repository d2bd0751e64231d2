"""Which accelerator a node computes on.

Whether CUDA works is asked of torch in a process of its own: asking it initialises the driver, and what is forked from a
process that has done so cannot use a GPU. The driver's management library would answer without that, but also where this
torch cannot compute on what it sees. Run as ``python -m cluster.node.accelerator`` it is that process.
"""

import ctypes
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import NoDevice

_log = logging.getLogger(__name__)
CPU_BUDGET_BYTES = 4 << 30
_DRIVER_BYTES = 512 << 20
"""Of a GPU's memory, what its driver keeps whoever computes there."""
_ASK_TIMEOUT_S = 120.0
_NO_DRIVER = "it has no NVIDIA driver (libcuda.so.1)"


@dataclass(frozen=True)
class Gpu:
    """A CUDA device as torch sees it; `uuid` tells it from all others in the world."""

    name: str
    memory_bytes: int
    uuid: str


@dataclass(frozen=True)
class Gpus:
    """The CUDA devices of this machine in torch's order; if there are none, `reason` says why."""

    gpus: tuple[Gpu, ...]
    reason: str = ""


@dataclass(frozen=True)
class Accelerator:
    """What stages of a node compute on: `kind` is "cpu" or "cuda"; `index` numbers the CUDA devices that torch sees.

    `budget_bytes` are there for processes and what stages reserve, on a CPU as an account.
    """

    kind: str
    index: int = 0
    budget_bytes: int = CPU_BUDGET_BYTES
    uuid: str = ""

    def budget(self, wanted_bytes: int, sharing: int) -> int:
        """What a node has of it that shall have `wanted_bytes`, 0 for its part where `sharing` nodes have a GPU between them.
        Never more than a GPU has; a CPU's account is each node's own."""
        if self.kind == "cpu":
            return wanted_bytes or self.budget_bytes
        return min(wanted_bytes or self.budget_bytes // sharing, self.budget_bytes)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What differs from `environment` in the node's children. They see one GPU at most, which they call cuda:0."""
        if self.kind == "cpu":
            return {"DS_ACCELERATOR": "cpu"}
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(i) for i in range(self.index + 1)]
        return {
            "DS_ACCELERATOR": "cuda",
            "CUDA_VISIBLE_DEVICES": names[self.index].strip(),
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # else a library that asks for a GPU at import initialises the driver
        }


def find_accelerator(wanted: str) -> Accelerator:
    """What `wanted` ("auto", "cpu", "cuda" or "cuda:N") means on this machine. NoDevice if it is not there."""
    if wanted == "cpu":
        return Accelerator("cpu")
    found = find_gpus()
    accelerator = choose(wanted, found)
    if accelerator.kind == "cuda":
        gpu = found.gpus[accelerator.index]
        _log.info("stages compute on cuda:%d, %s with %s bytes", accelerator.index, gpu.name, f"{gpu.memory_bytes:,}")
    else:
        level = logging.INFO if found.reason == _NO_DRIVER else logging.WARNING
        _log.log(level, "stages compute on the CPU, for this machine has no CUDA device: %s", found.reason)
    return accelerator


def choose(wanted: str, found: Gpus) -> Accelerator:
    """What `wanted` means where there are these GPUs. NoDevice if it is not there."""
    index = int(wanted.partition(":")[2] or 0)
    if index < len(found.gpus):
        gpu = found.gpus[index]
        return Accelerator("cuda", index, max(0, gpu.memory_bytes - _DRIVER_BYTES), gpu.uuid)
    if wanted == "auto":
        return Accelerator("cpu")
    if not found.gpus:
        raise NoDevice(f"node.device is {wanted}, but this machine has no CUDA device: {found.reason}")
    names = ", ".join(f"cuda:{i}" for i in range(len(found.gpus)))
    raise NoDevice(f"node.device is {wanted}, but this machine has only {names}")


def find_gpus() -> Gpus:
    """The CUDA devices that torch can compute on. Takes a few seconds where there is a driver, else a moment."""
    command = [sys.executable, "-m", "cluster.node.accelerator"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ASK_TIMEOUT_S).stdout
        told = json.loads(answer)
    except subprocess.CalledProcessError as error:
        return Gpus((), f"torch failed on it: {(error.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
    except (subprocess.TimeoutExpired, ValueError) as error:
        return Gpus((), f"torch does not answer: {error}")
    return Gpus(tuple(Gpu(**gpu) for gpu in told["gpus"]), told["reason"])


def main() -> None:
    """Tell what CUDA devices there are, as one line of JSON."""
    gpus, reason = _ask_torch() if _has_driver() else ([], _NO_DRIVER)
    sys.stdout.write(json.dumps({"gpus": [vars(gpu) for gpu in gpus], "reason": reason}) + "\n")


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _ask_torch() -> tuple[Sequence[Gpu], str]:
    import torch

    if torch.version.cuda is None:
        return [], "the installed torch is built without CUDA"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        return [], str(told[-1].message).partition("\n")[0] if told else "torch finds none"
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [Gpu(found.name, found.total_memory, str(found.uuid)) for found in properties], ""


if __name__ == "__main__":
    main()
