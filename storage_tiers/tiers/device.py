"""The device tier: the units of one stage, where it computes.

On a CPU that is the node's shared memory itself, and nothing is copied. On CUDA each unit is copied into a buffer of its
own; after that its memory on the host is no longer needed.
"""

import ctypes

import torch

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import OutOfSpace
from storage_tiers.tiers.cuda_copy import CudaCopy


class DeviceTier:
    """What one stage holds, at most `budget_bytes`. `hold` is called from one thread.

    With a CUDA `device` the process gets a context there.
    """

    def __init__(self, device: torch.device, budget_bytes: int) -> None:
        self.held_bytes = 0
        self._budget_bytes = budget_bytes
        self._copy = CudaCopy(device) if device.type == "cuda" else None

    @property
    def copies(self) -> bool:
        """Whether a unit that is held no longer needs its memory on the host."""
        return self._copy is not None

    def hold(self, unit: UnitIndex, memory: "ctypes.Array[ctypes.c_char]") -> dict[str, torch.Tensor]:
        """The unit's tensors, once their bytes are on the device; `memory` begins with them. Nobody may write to them.

        Tensors that are views of `memory` keep it mapped. OutOfSpace beyond the budget, RuntimeError if the device
        has no room or fails.
        """
        if self.held_bytes + unit.size_bytes > self._budget_bytes:
            free = self._budget_bytes - self.held_bytes
            raise OutOfSpace(
                f"device: unit {unit.name} has {unit.size_bytes:,} bytes, {free:,} of the stage's are left"
            )
        data = (
            torch.frombuffer(memory, dtype=torch.uint8)
            if self._copy is None
            else self._copy.copy(memory, unit.size_bytes)
        )
        self.held_bytes += unit.size_bytes
        return tensors_of(unit, data)


def tensors_of(unit: UnitIndex, data: torch.Tensor) -> dict[str, torch.Tensor]:
    """A unit's tensors as views of `data`, which begins with the unit's bytes."""
    return {
        entry.name: data[entry.offset_bytes : entry.offset_bytes + entry.size_bytes]
        .view(getattr(torch, entry.dtype))
        .view(entry.shape)
        for entry in unit.layout.tensors
    }
