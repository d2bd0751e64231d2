"""The device tier: the units of one stage, where it computes.

On a CPU that is the node's shared memory itself, and nothing is copied. On CUDA each unit is copied into a buffer of its
own, its tensors arranged for the products that use them; after that its memory on the host is no longer needed.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import OutOfSpace
from storage_tiers.tiers.arrange import arrange
from storage_tiers.tiers.cuda_copy import CudaCopy, Sent
from storage_tiers.tiers.pinned_pool import PinnedPool
from storage_tiers.tiers.shared_memory import Run


@dataclass(frozen=True)
class Coming:
    """A unit on its way to the device: `tensors` are right once `wait` has returned the seconds that its copies took."""

    tensors: dict[str, torch.Tensor]
    _sent: Sent

    def wait(self) -> float:
        """RuntimeError if the device fails."""
        return self._sent.wait()


class DeviceTier:
    """What one stage holds, at most `budget_bytes`. `hold` and `send` are called from one thread."""

    def __init__(self, budget_bytes: int, copy: CudaCopy | None = None) -> None:
        self.held_bytes = 0
        self._budget_bytes = budget_bytes
        self._copy = copy

    def hold(self, unit: UnitIndex, memory: "ctypes.Array[ctypes.c_char]") -> dict[str, torch.Tensor]:
        """On a CPU: the unit's tensors as views of `memory`, which begins with them and stays mapped. Nobody may write to it.

        OutOfSpace beyond the budget.
        """
        self._take(unit)
        return tensors_of(unit, torch.frombuffer(memory, dtype=torch.uint8))

    def send(self, unit: UnitIndex, pool: PinnedPool, runs: Sequence[Run]) -> Coming:
        """On CUDA: queue the unit's copies behind those before, from `runs` of the pool. Nobody may write to its tensors.

        OutOfSpace beyond the budget, RuntimeError if the device has no room or fails.
        """
        assert self._copy is not None
        self._take(unit)
        arrangement = arrange(unit.layout)
        sent = self._copy.send(pool, runs, arrangement)
        return Coming(tensors_of(unit, sent.data, arrangement.offset_bytes), sent)

    def _take(self, unit: UnitIndex) -> None:
        if self.held_bytes + unit.size_bytes > self._budget_bytes:
            free = self._budget_bytes - self.held_bytes
            raise OutOfSpace(
                f"device: unit {unit.name} has {unit.size_bytes:,} bytes, {free:,} of the stage's are left"
            )
        self.held_bytes += unit.size_bytes


def tensors_of(
    unit: UnitIndex, data: torch.Tensor, offset_bytes: Mapping[str, int] | None = None
) -> dict[str, torch.Tensor]:
    """A unit's tensors as views of `data`, which begins with the unit's bytes, or has each tensor at its offset."""
    found: dict[str, torch.Tensor] = {}
    for entry in unit.layout.tensors:
        at = entry.offset_bytes if offset_bytes is None else offset_bytes[entry.name]
        found[entry.name] = data[at : at + entry.size_bytes].view(getattr(torch, entry.dtype)).view(entry.shape)
    return found
