"""Units on their way to a GPU whose driver is played: from pinned memory where it can be, and never wrong."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage_tiers.checkpoint import TensorSpec, UnitIndex, lay_out
from storage_tiers.errors import OutOfSpace
from storage_tiers.tiers import cuda_copy
from storage_tiers.tiers.arrange import Move, arrange
from storage_tiers.tiers.cuda_copy import CudaCopy, cuts
from storage_tiers.tiers.device import DeviceTier
from storage_tiers.tiers.pinned_pool import PinnedPool
from storage_tiers.tiers.shared_memory import BlockPool, Run
from tests.storage_tiers.fake_driver import FakeDriver
from tests.storage_tiers.handmade import bytes_of

_BLOCK = 4096
_PIECE = 4 * _BLOCK
_CHUNK = 2 * _BLOCK
_BLOCKS = 64
_NAMES = ("k_proj.weight", "norm.weight", "q_proj.weight", "v_proj.weight", "up_proj.weight", "gate_proj.weight")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_copy, "CHUNK_BYTES", _CHUNK)


class Host:
    """A node's pool of 16 pieces, each of four blocks, and a process that has it mapped, before a GPU that is played."""

    def __init__(self, **driver: object) -> None:
        self.memory = BlockPool(_BLOCKS * _BLOCK, block_bytes=_BLOCK, piece_bytes=_PIECE)
        self.driver = FakeDriver(**driver)  # type: ignore[arg-type]
        self.pool = PinnedPool(self.memory.read_only_fd, self.memory.size_bytes, self.driver, _PIECE)
        self.tier = DeviceTier(1 << 30, CudaCopy(self.driver))
        self.filled: dict[str, dict[str, torch.Tensor]] = {}

    def fill(self, name: str) -> tuple[UnitIndex, tuple[Run, ...]]:
        """A unit of some blocks with random bytes, in the pool."""
        layout = lay_out([TensorSpec(f"{name}.{own}", "bfloat16", (60, 65 if "norm" in own else 95)) for own in _NAMES])
        unit = UnitIndex(name, f"_v/{name}", "0" * 64, layout, (0,) * layout.chunks)
        runs = self.memory.allocate(unit.size_bytes)
        data, at = bytes_of(hash(name), unit.size_bytes), 0
        for view in self.memory.views(runs, 0, unit.size_bytes):
            view[:] = data[at : at + len(view)]
            at += len(view)
        whole = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self.filled[name] = {
            t.name: whole[t.offset_bytes : t.offset_bytes + t.size_bytes].view(torch.bfloat16).view(t.shape)
            for t in layout.tensors
        }
        return unit, runs

    def pin(self) -> None:
        """All that is real is pinned."""
        pieces = self.memory.real_pieces()
        self.pool.hear(pieces)
        assert all(self.pool.wait(piece) for piece in pieces)

    def right(self, name: str, tensors: dict[str, torch.Tensor]) -> bool:
        expected = self.filled[name]
        return tensors.keys() == expected.keys() and all(
            torch.equal(tensors[key].view(torch.int16), expected[key].view(torch.int16)) for key in expected
        )

    def close(self) -> None:
        self.driver.may_pin.set()
        self.pool.close()
        self.memory.close()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=5),
    st.data(),
    st.sampled_from([1, 3, 64]),
)
def test_cuts_cover_every_byte_once_and_none_crosses_a_border(
    drawn: list[tuple[int, int]], data: st.DataObject, chunk_blocks: int
) -> None:
    at, runs = 0, []
    for gap, size in drawn:
        runs.append(Run((at + gap) * _BLOCK, size * _BLOCK))
        at += gap + size
    pool_offsets = [offset for run in runs for offset in range(run.offset_bytes, run.offset_bytes + run.size_bytes, 64)]
    start = data.draw(st.integers(0, len(pool_offsets) - 1))
    size = data.draw(st.integers(0, len(pool_offsets) - start))
    found = cuts([Move(start * 64, 128, size * 64)], runs, _PIECE, chunk_blocks * _BLOCK)
    covered = []
    target = 128
    for cut in found:
        assert cut.target_offset_bytes == target
        assert 0 < cut.size_bytes <= chunk_blocks * _BLOCK
        assert {cut.piece} == {
            offset // _PIECE for offset in (cut.pool_offset_bytes, cut.pool_offset_bytes + cut.size_bytes - 1)
        }
        covered += range(cut.pool_offset_bytes, cut.pool_offset_bytes + cut.size_bytes, 64)
        target += cut.size_bytes
    assert covered == pool_offsets[start : start + size]


def test_a_unit_that_is_longer_than_its_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 bytes before"):
        cuts([Move(0, 0, _BLOCK + 1)], [Run(0, _BLOCK)], _PIECE, _CHUNK)


def test_what_lies_in_pinned_pieces_is_copied_from_there(host: Host) -> None:
    host.memory.views(host.memory.allocate(3 * _BLOCK), 0, 3 * _BLOCK)  # the unit begins within a piece
    unit, runs = host.fill("a")
    host.fill("b")
    host.pin()
    coming = host.tier.send(unit, host.pool, runs)
    assert not host.driver.copied, "nothing has been waited for"
    took_s = coming.wait()
    assert host.right("a", coming.tensors)
    assert not host.driver.buffers, "none was needed"
    assert max(host.driver.copied) == _CHUNK
    assert took_s == pytest.approx(len(host.driver.copied) / 1000)


def test_the_next_unit_is_queued_before_the_one_before_is_done_and_its_time_is_its_own(host: Host) -> None:
    units = [host.fill(name) for name in "abc"]
    host.pin()
    coming = [host.tier.send(unit, host.pool, runs) for unit, runs in units]
    queued = host.driver.queued
    first_s = coming[0].wait()
    assert host.right("a", coming[0].tensors)
    assert not host.right("b", coming[1].tensors), "a unit's bytes come when it is its turn"
    others_s = [each.wait() for each in coming[1:]]
    assert all(host.right(name, each.tensors) for name, each in zip("abc", coming, strict=True))
    assert sum([first_s, *others_s]) == pytest.approx(queued / 1000)


def test_queries_keys_and_values_lie_in_a_row_on_the_device(host: Host) -> None:
    unit, runs = host.fill("a")
    host.pin()
    coming = host.tier.send(unit, host.pool, runs)
    coming.wait()
    q, k, v = (coming.tensors[f"a.{name}_proj.weight"] for name in "qkv")
    assert (k.data_ptr(), v.data_ptr()) == (q.data_ptr() + q.nbytes, k.data_ptr() + k.nbytes)
    assert all(tensor.untyped_storage().nbytes() <= unit.size_bytes for tensor in (q, k, v))


def test_a_unit_in_several_runs_arrives_whole(host: Host) -> None:
    before = [host.memory.allocate(_BLOCK) for _ in range(20)]
    for runs in before:
        host.memory.views(runs, 0, _BLOCK)
    for runs in before[::2]:
        host.memory.free(runs)
    unit, runs = host.fill("a")
    assert len(runs) > 5
    host.pin()
    coming = host.tier.send(unit, host.pool, runs)
    coming.wait()
    assert host.right("a", coming.tensors)


def test_where_the_driver_refuses_all_goes_through_buffers() -> None:
    host = Host(pins=0)
    try:
        unit, runs = host.fill("a")
        host.pool.hear(host.memory.real_pieces())
        coming = [host.tier.send(unit, host.pool, runs) for _ in range(2)]
        for each in coming:
            each.wait()
        assert all(host.right("a", each.tensors) for each in coming)
        assert len(host.driver.asked) == 1, "it is asked once"
        assert len(host.driver.buffers) == 3
    finally:
        host.close()


def test_where_the_driver_pins_a_part_the_rest_goes_through_buffers() -> None:
    host = Host(pins=2)
    try:
        unit, runs = host.fill("a")
        host.pool.hear(host.memory.real_pieces())
        host.pool.want(runs)
        assert host.pool.wait(1)
        coming = host.tier.send(unit, host.pool, runs)
        coming.wait()
        assert host.right("a", coming.tensors)
        assert (len(host.driver.pinned_ranges), len(host.driver.buffers)) == (2, 3)
    finally:
        host.close()


def test_a_piece_that_is_not_wholly_real_is_never_pinned(host: Host) -> None:
    unit, runs = host.fill("a")
    coming = host.tier.send(unit, host.pool, runs)
    coming.wait()
    assert host.right("a", coming.tensors)
    assert not host.driver.asked
    host.pin()
    assert unit.size_bytes % _PIECE
    assert len(host.driver.asked) == unit.size_bytes // _PIECE


def test_a_unit_waits_for_pieces_that_are_about_to_be_pinned(host: Host) -> None:
    """It comes before they are: what is real is worth the wait, a copy through buffers takes the host's time."""
    host.memory.views(host.memory.allocate(16 * _BLOCK), 0, 16 * _BLOCK)
    unit, runs = host.fill("a")
    host.fill("b")
    host.driver.may_pin.clear()
    host.pool.hear(host.memory.real_pieces())
    assert host.driver.pins_now.wait(30)
    host.pool.want(runs)
    sent: list[object] = []
    thread = threading.Thread(target=lambda: sent.append(host.tier.send(unit, host.pool, runs)), daemon=True)
    thread.start()
    thread.join(0.1)
    assert not sent
    host.driver.may_pin.set()
    thread.join(30)
    (coming,) = sent
    coming.wait()  # type: ignore[attr-defined]
    assert host.right("a", coming.tensors)  # type: ignore[attr-defined]
    base = min(host.driver.asked)
    order = [(address - base) // _PIECE for address in host.driver.asked]
    assert order[1:5] == [4, 5, 6, 7], "after the one that was under way, what the unit lies in"


def test_what_is_pinned_is_under_way_while_the_rest_is_waited_for(host: Host) -> None:
    unit, runs = host.fill("a")
    host.fill("b")
    host.pool.hear([0])
    assert host.pool.wait(0)
    host.driver.may_pin.clear()
    host.pool.hear(host.memory.real_pieces())
    thread = threading.Thread(target=lambda: host.tier.send(unit, host.pool, runs), daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 30
    while 1 not in host.pool._wanted and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert host.driver.queued == sum(cut.piece == 0 for cut in cuts(arrange(unit.layout).moves, runs, _PIECE, _CHUNK))
    host.driver.may_pin.set()
    thread.join(30)


def test_what_is_slow_to_make_is_made_ahead(host: Host) -> None:
    copy = CudaCopy(host.driver)
    copy.warm_up()
    made = len(host.driver.buffers)
    unit, runs = host.fill("a")
    coming = DeviceTier(1 << 30, copy).send(unit, host.pool, runs)
    coming.wait()
    assert host.right("a", coming.tensors)
    assert len(host.driver.buffers) == made == 3


def test_a_unit_beyond_the_budget_is_refused_before_any_memory_is_taken(host: Host) -> None:
    unit, runs = host.fill("a")
    tier = DeviceTier(2 * unit.size_bytes - 1, CudaCopy(host.driver))
    tier.send(unit, host.pool, runs)
    with pytest.raises(OutOfSpace, match="unit a has"):
        tier.send(unit, host.pool, runs)
    assert len(host.driver.rooms) == 1


def test_a_device_without_room_says_so() -> None:
    host = Host(room_bytes=_BLOCK)
    try:
        unit, runs = host.fill("a")
        with pytest.raises(RuntimeError, match="out of memory"):
            host.tier.send(unit, host.pool, runs)
    finally:
        host.close()
