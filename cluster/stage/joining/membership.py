"""A stage process's place in its group: entering torch's and DeepSpeed's process group, and leaving it.

What is on the CPU always goes over gloo. Hidden states on GPUs go over NCCL if every stage has a GPU of its own; else by
way of the CPU, for NCCL refuses two ranks on one GPU.
"""

import gc
import os
from collections.abc import Sequence
from datetime import timedelta

import deepspeed
import torch
from torch.distributed import Store

_CPU = "cpu"
_GLOO, _GLOO_AND_NCCL = "gloo", "cpu:gloo,cuda:nccl"
_UNTIDY = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
"""Where NCCL fails, or a neighbour is gone, its watchdog ends the process: it waits neither for NCCL to clean up nor for what
it would write down."""


def join(store: Store, rank: int, degree: int, device: torch.device, timeout_s: float) -> torch.device:
    """Enter the group; all its ranks must. Returns where hidden states are when they travel: on `device` or the CPU.

    RuntimeError if the others do not come within the timeout.
    """
    timeout = timedelta(seconds=timeout_s)
    over_nccl = _each_has_a_gpu(_devices(store, rank, degree, device))
    backend = _GLOO_AND_NCCL if over_nccl else _GLOO
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(degree), **(_UNTIDY if over_nccl else {}))
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=degree, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return device if over_nccl else torch.device(_CPU)


def leave() -> None:
    """Leave the group; the process may join another."""
    torch.distributed.destroy_process_group()
    deepspeed.comm.comm.cdb = None  # DeepSpeed keeps its backend; without this a process cannot join a second group
    gc.collect()


def _devices(store: Store, rank: int, degree: int, device: torch.device) -> Sequence[str]:
    """What the ranks compute on, by names that are unique in the world; on a CPU there is no need to know the others'."""
    if degree == 1:
        return [_CPU]
    on_cpu = device.type == _CPU
    store.set(f"device/{rank}", _CPU if on_cpu else str(torch.cuda.get_device_properties(device).uuid))
    return [_CPU] if on_cpu else [store.get(f"device/{other}").decode() for other in range(degree)]


def _each_has_a_gpu(devices: Sequence[str]) -> bool:
    return _CPU not in devices and len(set(devices)) == len(devices)
