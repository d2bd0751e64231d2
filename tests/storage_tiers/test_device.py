"""The device tier on the device itself: what a unit's tensors are there, bit for bit, whichever way their bytes came."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
import torch

from storage_tiers.checkpoint import TensorSpec, UnitIndex, lay_out
from storage_tiers.errors import OutOfSpace
from storage_tiers.tiers.cuda_copy import CudaCopy
from storage_tiers.tiers.cuda_driver import CudaDriver
from storage_tiers.tiers.device import DeviceTier
from storage_tiers.tiers.pinned_pool import PinnedPool
from storage_tiers.tiers.shared_memory import BLOCK_BYTES, BlockPool, Run, map_runs
from tests.storage_tiers.handmade import bytes_of

_PIECE = 4 * BLOCK_BYTES
_POOL_BYTES = 16 * _PIECE
_SHAPES = {
    "norm.weight": (1000,),
    "k_proj.weight": (300, 1000),
    "q_proj.weight": (1200, 1000),
    "v_proj.weight": (300, 1000),
    "down_proj.weight": (1000, 3001),
}


def _unit(name: str) -> UnitIndex:
    layout = lay_out([TensorSpec(f"{name}.{own}", "bfloat16", shape) for own, shape in _SHAPES.items()])
    return UnitIndex(name, f"_v/{name}", "0" * 64, layout, (0,) * layout.chunks)


def _fill(memory: BlockPool, unit: UnitIndex) -> tuple[tuple[Run, ...], dict[str, torch.Tensor]]:
    """Random bytes for the unit in the pool: where they are, and the tensors that they make."""
    runs, data, at = memory.allocate(unit.size_bytes), bytes_of(len(unit.name), unit.size_bytes), 0
    for view in memory.views(runs, 0, unit.size_bytes):
        view[:] = data[at : at + len(view)]
        at += len(view)
    whole = torch.frombuffer(bytearray(data), dtype=torch.int16)
    tensors = {
        entry.name: whole[entry.offset_bytes // 2 : (entry.offset_bytes + entry.size_bytes) // 2].view(entry.shape)
        for entry in unit.layout.tensors
    }
    return runs, tensors


@contextmanager
def _tier(
    device: torch.device, memory: BlockPool, budget_bytes: int, pinned: bool
) -> Iterator["_Tier"]:  # fmt: skip
    if device.type == "cpu":
        yield _Tier(DeviceTier(budget_bytes), memory, None)
        return
    driver = CudaDriver(device)
    with closing(PinnedPool(memory.read_only_fd, memory.size_bytes, driver, _PIECE)) as pool:
        pool.hear(memory.real_pieces() if pinned else [])
        yield _Tier(DeviceTier(budget_bytes, CudaCopy(driver)), memory, pool)
        torch.cuda.synchronize(device)


class _Tier:
    """The tier, asked as a stage on its device asks it."""

    def __init__(self, tier: DeviceTier, memory: BlockPool, pool: PinnedPool | None) -> None:
        self._tier, self._memory, self._pool = tier, memory, pool

    def bring(self, units: Sequence[tuple[UnitIndex, tuple[Run, ...]]]) -> list[dict[str, torch.Tensor]]:
        """All under way at once, then waited for in turn."""
        if self._pool is None:
            return [self._tier.hold(unit, map_runs(self._memory.read_only_fd, runs)) for unit, runs in units]
        coming = [self._tier.send(unit, self._pool, runs) for unit, runs in units]
        for one in coming:
            assert one.wait() > 0
        return [one.tensors for one in coming]


@pytest.fixture
def memory() -> Iterator[BlockPool]:
    with closing(BlockPool(_POOL_BYTES, piece_bytes=_PIECE)) as pool:
        yield pool


@pytest.mark.parametrize("pinned", [True, False])
def test_units_are_on_the_device_as_they_were_in_memory(device: torch.device, memory: BlockPool, pinned: bool) -> None:
    """From pinned pieces, whose borders they cross, or where nothing is pinned; of two that follow each other."""
    units = [_unit(name) for name in ("a", "bb", "ccc")]
    filled = [_fill(memory, unit) for unit in units]
    with _tier(device, memory, 1 << 30, pinned) as tier:
        brought = tier.bring([(unit, runs) for unit, (runs, _) in zip(units, filled, strict=True)])
        for (_, expected), tensors in zip(filled, brought, strict=True):
            assert tensors.keys() == expected.keys()
            for name, tensor in tensors.items():
                assert tensor.device.type == device.type
                assert tensor.dtype is torch.bfloat16
                assert torch.equal(tensor.view(torch.int16).cpu(), expected[name]), name


def test_no_more_is_held_than_was_reserved(device: torch.device, memory: BlockPool) -> None:
    units = [_unit("a"), _unit("bb")]
    filled = [(unit, _fill(memory, unit)[0]) for unit in units]
    with _tier(device, memory, 2 * units[0].size_bytes - 1, pinned=True) as tier:
        tier.bring(filled[:1])
        with pytest.raises(OutOfSpace, match=r"unit bb has .* of the stage's are left"):
            tier.bring(filled[1:])
