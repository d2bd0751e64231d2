"""All tiers as one: where units come from, what happens to bad bytes, and who goes first."""

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from storage_tiers import transfer
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.dram import DramTier
from storage_tiers.errors import Corrupt, Missing, OutOfSpace, StorageError, StoreUnavailable
from storage_tiers.origin import RemoteTier
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore
from storage_tiers.ssd import SsdTier
from storage_tiers.stack import Loaded, Priority, TierStack
from storage_tiers.tier import Tier, Views
from storage_tiers.transfer import ATTEMPTS
from tests.storage_tiers.handmade import CHUNK_BYTES, flip, open_descriptors, store_unit, store_units
from tests.tiny import make_tiny

_CHUNKS = 3
_UNIT = _CHUNKS * CHUNK_BYTES
_WAIT_S = 30.0

Before = Callable[[UnitIndex, int], None]


class Watched:
    """A tier that notes every read; `before` happens ahead of each, and may raise or wait."""

    def __init__(self, tier: Tier, before: Before = lambda _unit, _chunk: None, name: str = "remote") -> None:
        self.name, self.before = name, before
        self._tier = tier
        self.reads: list[tuple[str, int]] = []

    def holds(self, unit: UnitIndex) -> bool:
        return self._tier.holds(unit)

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        chunk = offset_bytes // unit.layout.chunk_bytes
        self.reads.append((unit.name, chunk))
        self.before(unit, chunk)
        self._tier.read(model, unit, offset_bytes, views)

    def discard(self, unit: UnitIndex) -> None:
        self._tier.discard(unit)


class _Node:
    """A stack over a store, and what it needs; a second one over the same folder is the same node after a restart."""

    def __init__(
        self,
        store: ModelStore,
        folder: Path,
        before: Before = lambda _unit, _chunk: None,
        *,
        dram_units: int = 8,
        ssd_units: int = 8,
        threads: int = 4,
        others: Sequence[Tier] = (),
        write_behind: bool = True,
    ) -> None:
        self.remote = Watched(RemoteTier(store), before)
        self.dram, self.ssd = DramTier(dram_units * _UNIT), SsdTier(folder, ssd_units * _UNIT)
        clock = iter(range(10**9))
        self.stack = TierStack(
            self.dram, self.ssd, store, threads, lambda: float(next(clock)), others, self.remote, write_behind
        )

    def load(self, unit: UnitIndex, priority: Priority = Priority.COLD_START) -> Future[Loaded]:
        return self.stack.load("model", unit, priority)

    def get(self, unit: UnitIndex) -> Loaded:
        return self.load(unit).result(_WAIT_S)

    def fail(self, unit: UnitIndex) -> BaseException | None:
        return self.load(unit).exception(_WAIT_S)

    def settle(self, loaded: Loaded) -> None:
        """Wait until the unit is on ssd, and let go of it."""
        self.stack.keep_on_ssd(loaded.unit, loaded.segment).result(_WAIT_S)
        self.stack.release(loaded.unit)


@contextmanager
def _running(node: _Node) -> Iterator[_Node]:
    try:
        yield node
    finally:
        node.stack.close()


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_BACKOFF_S", 0.001)


@pytest.fixture
def units(store: ModelStore) -> list[tuple[UnitIndex, bytes]]:
    return store_units(store, 6, _CHUNKS)


@pytest.fixture
def node(store: ModelStore, tmp_path: Path) -> Iterator[_Node]:
    """A node with one worker, which has undone its own pin of a unit before it takes up the next job."""
    with _running(_Node(store, tmp_path / "ssd", threads=1)) as found:
        yield found


class _Gate:
    """Holds back reads until it is opened."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self, _unit: UnitIndex, _chunk: int) -> None:
        self.reached.set()
        assert self._open.wait(_WAIT_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[_Gate]:
    found = _Gate()
    yield found
    found.open()


Units = list[tuple[UnitIndex, bytes]]


# ---- where units come from


def test_a_unit_comes_from_remote_then_from_dram_and_after_a_restart_from_ssd(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    unit, data = units[0]
    with _running(_Node(store, tmp_path / "ssd")) as node:
        first, second = node.get(unit), node.get(unit)
        assert (first.source, second.source) == ("remote", "dram")
        assert bytes(first.segment.view) == bytes(second.segment.view) == data
        node.settle(first)
    with _running(_Node(store, tmp_path / "ssd")) as restarted:
        third = restarted.get(unit)
        assert (third.source, bytes(third.segment.view)) == ("ssd", data)
        assert restarted.remote.reads == []


def test_what_came_from_remote_lands_on_ssd_behind_the_load(node: _Node, units: Units, tmp_path: Path) -> None:
    unit, data = units[0]
    node.settle(node.get(unit))
    assert (tmp_path / "ssd" / unit.digest).read_bytes() == data
    assert node.dram.drop(unit.digest), "the load's own pin is undone"


def test_nothing_lands_on_ssd_where_that_is_not_wanted(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with _running(_Node(store, tmp_path / "ssd", write_behind=False, threads=1)) as node:
        for unit, _ in units:
            node.get(unit)
        assert node.ssd.held() == frozenset()


def test_a_unit_that_the_ssd_cannot_hold_is_loaded_all_the_same(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with _running(_Node(store, tmp_path / "ssd", ssd_units=0)) as node:
        loaded = node.get(units[0][0])
        with pytest.raises(OutOfSpace):
            node.settle(loaded)
        assert bytes(loaded.segment.view) == units[0][1]


def test_another_tier_is_asked_before_remote_and_remote_when_it_fails(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    def broken(unit: UnitIndex, _chunk: int) -> None:
        if unit.name == "unit1":
            raise StoreUnavailable("the peer is gone")

    peer = Watched(RemoteTier(store), broken, name="peer")
    with _running(_Node(store, tmp_path / "ssd", others=[peer])) as node:
        good, bad = node.get(units[0][0]), node.get(units[1][0])
        assert (good.source, bad.source) == ("peer", "remote")
        assert (bytes(good.segment.view), bytes(bad.segment.view)) == (units[0][1], units[1][1])


def test_a_published_model_is_loaded_as_it_lies_in_the_store(store: ModelStore, tmp_path: Path) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store)
    with _running(_Node(store, tmp_path / "ssd", dram_units=10**3)) as node:
        loads = [node.load(unit) for unit in checkpoint.units]
        for unit, load in zip(checkpoint.units, loads, strict=True):
            stored = Path(store.objects.path(store.unit_key("model", unit))).read_bytes()[: unit.size_bytes]
            assert bytes(load.result(_WAIT_S).segment.view) == stored


# ---- one load per unit


def test_however_many_wait_the_store_is_read_once(store: ModelStore, tmp_path: Path, units: Units, gate: _Gate) -> None:
    unit, data = units[0]
    with _running(_Node(store, tmp_path / "ssd", gate)) as node:
        loads: list[Future[Loaded]] = []
        threads = [threading.Thread(target=lambda: loads.append(node.load(unit))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not any(load.done() for load in loads)
        gate.open()
        assert all(bytes(load.result(_WAIT_S).segment.view) == data for load in loads)
        assert Counter(node.remote.reads) == {("unit0", chunk): 1 for chunk in range(_CHUNKS)}


def test_everyone_who_waited_holds_a_pin_of_their_own(node: _Node, units: Units) -> None:
    unit, _ = units[0]
    loads = [node.load(unit) for _ in range(3)]
    for load in loads:
        load.result(_WAIT_S)
    node.settle(loads[0].result())
    assert not node.dram.drop(unit.digest)
    node.stack.release(unit)
    assert not node.dram.drop(unit.digest)
    node.stack.release(unit)
    assert node.dram.drop(unit.digest)


def test_equal_units_of_two_models_are_one(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    twin = store_unit(store, "fine-tune", "unit0", data)
    with _running(_Node(store, tmp_path / "ssd")) as node:
        node.get(unit)
        assert node.stack.load("fine-tune", twin, Priority.COLD_START).result(_WAIT_S).source == "dram"


def test_nobody_can_cancel_what_others_wait_for(store: ModelStore, tmp_path: Path, units: Units, gate: _Gate) -> None:
    """A waiter that was cancelled ended the worker that had its result, or the stack's close."""
    with _running(_Node(store, tmp_path / "ssd", gate)) as node:
        load = node.load(units[0][0])
        assert not load.cancel()
        gate.open()
        assert load.result(_WAIT_S).source == "remote"


# ---- bad bytes, bad stores


def test_a_bad_object_is_read_again_and_then_reported_and_nothing_is_kept(
    node: _Node, store: ModelStore, units: Units
) -> None:
    unit, _ = units[0]
    flip(Path(store.objects.path(store.unit_key("model", unit))), CHUNK_BYTES + 5)
    error = node.fail(unit)
    assert isinstance(error, Corrupt)
    assert "unit0 of model from remote: chunk 1 has crc32c" in str(error)
    assert Counter(node.remote.reads)["unit0", 1] == ATTEMPTS
    assert (node.dram.held(), node.dram.used_bytes, node.ssd.held()) == (frozenset(), 0, frozenset())


def test_bytes_that_are_bad_once_are_right_the_next_time(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    path = Path(store.objects.path(store.unit_key("model", unit)))
    flip(path, CHUNK_BYTES)

    def mend(_unit: UnitIndex, chunk: int) -> None:
        if chunk == 1 and node.remote.reads.count(("unit0", 1)) == 2:
            flip(path, CHUNK_BYTES)

    with _running(_Node(store, tmp_path / "ssd", mend)) as node:
        assert bytes(node.get(unit).segment.view) == data


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_a_flipped_byte_on_ssd_is_dropped_and_read_again_from_remote(
    store: ModelStore, tmp_path: Path, units: Units, chunk: int
) -> None:
    unit, data = units[0]
    with _running(_Node(store, tmp_path / "ssd")) as node:
        node.settle(node.get(unit))
    flip(tmp_path / "ssd" / unit.digest, chunk * CHUNK_BYTES + 7)
    with _running(_Node(store, tmp_path / "ssd")) as restarted:
        loaded = restarted.get(unit)
        assert bytes(loaded.segment.view) == data
        assert ("unit0", chunk) in restarted.remote.reads
        restarted.settle(loaded)
    assert (tmp_path / "ssd" / unit.digest).read_bytes() == data


def test_a_file_that_vanished_from_ssd_is_read_from_remote(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    with _running(_Node(store, tmp_path / "ssd", threads=1)) as node:
        node.settle(node.get(unit))
        assert node.dram.drop(unit.digest)
        (tmp_path / "ssd" / unit.digest).unlink()
        loaded = node.get(unit)
        assert (loaded.source, bytes(loaded.segment.view)) == ("remote", data)


def test_a_truncated_object_is_corrupt(node: _Node, store: ModelStore, units: Units) -> None:
    unit, _ = units[0]
    with open(store.objects.path(store.unit_key("model", unit)), "r+b") as file:
        file.truncate(_UNIT - 1)
    assert isinstance(node.fail(unit), Corrupt)
    assert (node.dram.used_bytes, node.ssd.held()) == (0, frozenset())


def test_a_missing_object_is_reported_at_once(node: _Node, store: ModelStore, units: Units) -> None:
    unit, _ = units[0]
    store.objects.remove(store.unit_key("model", unit))
    assert isinstance(node.fail(unit), Missing)
    assert max(Counter(node.remote.reads).values()) == 1
    assert node.dram.used_bytes == 0


def _failing(times: int) -> Before:
    """Fails as often as said for every chunk, then no more."""
    seen: Counter[tuple[str, int]] = Counter()

    def fail(unit: UnitIndex, chunk: int) -> None:
        seen[unit.name, chunk] += 1
        if seen[unit.name, chunk] <= times:
            raise StoreUnavailable("the store is restarting")

    return fail


def test_a_store_that_fails_twice_is_asked_again(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with _running(_Node(store, tmp_path / "ssd", _failing(2))) as node:
        assert bytes(node.get(units[0][0]).segment.view) == units[0][1]
        assert set(Counter(node.remote.reads).values()) == {3}


def test_a_store_that_keeps_failing_is_unavailable_and_the_stack_goes_on(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    def only_the_first(unit: UnitIndex, _chunk: int) -> None:
        if unit.name == "unit0":
            raise StoreUnavailable("no route to the store")

    with _running(_Node(store, tmp_path / "ssd", only_the_first)) as node:
        for _ in range(8):
            assert isinstance(node.fail(units[0][0]), StoreUnavailable)
        assert bytes(node.get(units[1][0]).segment.view) == units[1][1]
        assert node.dram.held() == {units[1][0].digest}


def test_everyone_who_waits_hears_of_a_failure(store: ModelStore, tmp_path: Path, units: Units, gate: _Gate) -> None:
    store.objects.remove(store.unit_key("model", units[0][0]))
    with _running(_Node(store, tmp_path / "ssd", gate)) as node:
        loads = [node.load(units[0][0]) for _ in range(3)]
        gate.open()
        assert [type(load.exception(_WAIT_S)) for load in loads] == [Missing] * 3


# ---- room


def test_when_everything_is_pinned_there_is_no_room_until_something_is_released(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with _running(_Node(store, tmp_path / "ssd", dram_units=2, threads=1)) as node:
        first, _second = node.get(units[0][0]), node.get(units[1][0])
        assert isinstance(node.fail(units[2][0]), OutOfSpace)
        node.settle(first)
        assert bytes(node.get(units[2][0]).segment.view) == units[2][1]
        assert node.dram.held() == {units[1][0].digest, units[2][0].digest}


def test_a_model_larger_than_dram_passes_through_it(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with _running(_Node(store, tmp_path / "ssd", dram_units=1, threads=1)) as node:
        for _ in range(2):
            for unit, data in units:
                loaded = node.get(unit)
                assert bytes(loaded.segment.view) == data
                node.settle(loaded)
        assert set(Counter(node.remote.reads).values()) == {1}


# ---- who goes first


def _order(reads: list[tuple[str, int]]) -> list[str]:
    """Units in the order in which they were first read."""
    return list(dict.fromkeys(name for name, _ in reads))


def test_a_cold_start_overtakes_prewarming(store: ModelStore, tmp_path: Path, units: Units, gate: _Gate) -> None:
    with _running(_Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(unit, Priority.PREWARM) for unit, _ in units[:3]]
        assert gate.reached.wait(_WAIT_S)
        loads.append(node.load(units[3][0], Priority.COLD_START))
        gate.open()
        for load in loads:
            load.result(_WAIT_S)
        assert _order(node.remote.reads) == ["unit0", "unit3", "unit1", "unit2"]
        assert node.remote.reads[1:4] == [("unit3", 0), ("unit3", 1), ("unit3", 2)]


def test_a_unit_that_is_being_prewarmed_moves_up_when_a_cold_start_wants_it(
    store: ModelStore, tmp_path: Path, units: Units, gate: _Gate
) -> None:
    """It stayed behind everything else that was prewarmed before it."""
    with _running(_Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(unit, Priority.PREWARM) for unit, _ in units[:4]]
        assert gate.reached.wait(_WAIT_S)
        loads.append(node.load(units[3][0], Priority.COLD_START))
        loads.append(node.load(units[2][0], Priority.PREWARM))
        gate.open()
        for load in loads:
            load.result(_WAIT_S)
        assert _order(node.remote.reads) == ["unit0", "unit3", "unit1", "unit2"]
        assert set(Counter(node.remote.reads).values()) == {1}


def test_writing_to_ssd_waits_behind_loads(store: ModelStore, tmp_path: Path, units: Units, gate: _Gate) -> None:
    on_ssd: list[int] = []

    def note(unit: UnitIndex, chunk: int) -> None:
        gate(unit, chunk)
        on_ssd.append(len(node.ssd.held()))

    with _running(_Node(store, tmp_path / "ssd", note, threads=1)) as node:
        loads = [node.load(unit, Priority.PREWARM) for unit, _ in units]
        gate.open()
        for load in loads:
            load.result(_WAIT_S)
        assert on_ssd == [0] * (len(units) * _CHUNKS)


# ---- what may be read before the whole is there


def test_the_watermark_rises_chunk_by_chunk(store: ModelStore, tmp_path: Path, units: Units) -> None:
    second = _Gate()

    def hold_second(unit: UnitIndex, chunk: int) -> None:
        if chunk == 1:
            second(unit, chunk)

    unit, data = units[0]
    with _running(_Node(store, tmp_path / "ssd", hold_second, threads=2)) as node:
        load = node.load(unit)
        under_way = node.stack.transfer(unit)
        assert under_way is not None
        under_way.wait_for(CHUNK_BYTES, _WAIT_S)
        assert under_way.watermark_bytes == CHUNK_BYTES
        assert b"".join(under_way.segment.views(0, CHUNK_BYTES)) == data[:CHUNK_BYTES]
        second.open()
        under_way.wait_for(_UNIT, _WAIT_S)
        load.result(_WAIT_S)
        assert node.stack.transfer(unit) is None


def test_who_waits_for_a_watermark_hears_of_a_failure(
    store: ModelStore, tmp_path: Path, units: Units, gate: _Gate
) -> None:
    store.objects.remove(store.unit_key("model", units[0][0]))
    with _running(_Node(store, tmp_path / "ssd", gate)) as node:
        load = node.load(units[0][0])
        under_way = node.stack.transfer(units[0][0])
        assert under_way is not None
        gate.open()
        with pytest.raises(Missing):
            under_way.wait_for(_UNIT, _WAIT_S)
        assert isinstance(load.exception(_WAIT_S), Missing)


# ---- giving up, closing


def _remains(work: Callable[[], None]) -> tuple[int, int, int]:
    """Descriptors, mapped pools and threads that are more after `work` than before."""

    def count() -> tuple[int, int, int]:
        gc.collect()
        pools = Path("/proc/self/maps").read_text().count("memfd:firsttoken")
        return open_descriptors(), pools, threading.active_count()

    before = count()
    work()
    after = count()
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def test_a_load_that_everyone_gave_up_stops_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, units: Units, gate: _Gate
) -> None:
    with _running(_Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(units[0][0]) for _ in range(2)]
        assert gate.reached.wait(_WAIT_S)
        for load in loads:
            node.stack.give_up(load)
        gate.open()
        node.get(units[1][0])
        assert node.remote.reads.count(("unit0", 1)) == 0
        assert node.dram.held() == {units[1][0].digest}
        assert node.dram.used_bytes == _UNIT


def test_who_asks_again_while_a_load_ends_gets_a_new_one(
    store: ModelStore, tmp_path: Path, units: Units, gate: _Gate
) -> None:
    """Whoever came in between was told that the load was being given up."""
    unit, data = units[0]
    with _running(_Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        given_up = node.load(unit)
        assert gate.reached.wait(_WAIT_S)
        node.stack.give_up(given_up)
        again, another, unwanted = node.load(unit), node.load(unit), node.load(unit)
        node.stack.give_up(unwanted)
        gate.open()
        assert bytes(again.result(_WAIT_S).segment.view) == bytes(another.result(_WAIT_S).segment.view) == data
        node.settle(again.result())
        assert not node.dram.drop(unit.digest)
        node.stack.release(unit)
        assert node.dram.drop(unit.digest)
        assert not unwanted.done()


def test_one_who_gives_up_takes_nothing_from_the_others(
    store: ModelStore, tmp_path: Path, units: Units, gate: _Gate
) -> None:
    with _running(_Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        leaving, staying = node.load(units[0][0]), node.load(units[0][0])
        node.stack.give_up(leaving)
        gate.open()
        loaded = staying.result(_WAIT_S)
        assert bytes(loaded.segment.view) == units[0][1]
        node.settle(loaded)
        assert node.dram.drop(units[0][0].digest)


def test_giving_up_what_is_there_releases_it(node: _Node, units: Units) -> None:
    load = node.load(units[0][0])
    node.stack.keep_on_ssd(units[0][0], load.result(_WAIT_S).segment).result(_WAIT_S)
    node.stack.give_up(load)
    assert node.dram.drop(units[0][0].digest)


def test_closing_fails_what_is_unfinished_and_refuses_what_comes(
    store: ModelStore, tmp_path: Path, units: Units, gate: _Gate
) -> None:
    """What waited to be written to ssd was never told."""
    node = _Node(store, tmp_path / "ssd", threads=1)
    loaded = node.get(units[0][0])
    node.remote.before = gate
    loads = [node.load(unit) for unit, _ in units[1:4]]
    keeping = node.stack.keep_on_ssd(loaded.unit, loaded.segment)
    assert gate.reached.wait(_WAIT_S)
    closing = threading.Thread(target=node.stack.close)
    closing.start()
    while not node.load(units[4][0]).done():
        closing.join(0.01)
    gate.open()
    closing.join(_WAIT_S)
    assert all(isinstance(load.exception(0), StorageError) for load in loads)
    assert isinstance(keeping.exception(0), StorageError)
    assert isinstance(node.stack.keep_on_ssd(loaded.unit, loaded.segment).exception(0), StorageError)
    assert node.dram.used_bytes == 0


def test_descriptors_memory_and_threads_end_with_the_stack(store: ModelStore, tmp_path: Path, units: Units) -> None:
    def live() -> None:
        node = _Node(store, tmp_path / "ssd")
        for unit, data in units:
            assert bytes(node.get(unit).segment.view) == data
        node.stack.close()

    assert _remains(live) == (0, 0, 0)


def test_releasing_after_the_stack_was_closed_is_harmless(store: ModelStore, tmp_path: Path, units: Units) -> None:
    node = _Node(store, tmp_path / "ssd")
    loaded = node.get(units[0][0])
    node.stack.close()
    node.stack.release(loaded.unit)


def test_a_pause_before_the_next_attempt_does_not_hold_up_closing(
    store: ModelStore, tmp_path: Path, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FIRST_BACKOFF_S", 10 * _WAIT_S)
    failed = threading.Event()

    def fail(_unit: UnitIndex, _chunk: int) -> None:
        failed.set()
        raise StoreUnavailable("the store is restarting")

    node = _Node(store, tmp_path / "ssd", fail)
    load = node.load(units[0][0])
    assert failed.wait(_WAIT_S)
    node.stack.close()
    assert isinstance(load.exception(0), StorageError)


# ---- all at once


@pytest.mark.parametrize("write_behind", [True, False])
def test_under_load_with_faults_every_unit_that_is_given_out_is_right_and_nothing_is_left_over(
    store: ModelStore, tmp_path: Path, units: Units, write_behind: bool
) -> None:
    chance, guard = Random(5), threading.Lock()

    def sometimes(_unit: UnitIndex, _chunk: int) -> None:
        with guard:
            if chance.random() < 0.2:
                raise StoreUnavailable("now and then")

    node = _Node(store, tmp_path / "ssd", sometimes, dram_units=4, ssd_units=3, write_behind=write_behind)
    wrong: list[str] = []

    def use(seed: int) -> None:
        random = Random(seed)
        for _ in range(30):
            unit, data = random.choice(units)
            load = node.load(unit, random.choice([Priority.COLD_START, Priority.PREWARM]))
            if random.random() < 0.2:
                node.stack.give_up(load)
                continue
            try:
                loaded = load.result(_WAIT_S)
            except StorageError:
                continue
            if bytes(loaded.segment.view) != data:
                wrong.append(unit.name)
            node.stack.release(unit)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert node.dram.used_bytes <= node.dram.budget_bytes
    assert node.ssd.used_bytes <= node.ssd.budget_bytes
    if not write_behind:
        node.remote.before = lambda _unit, _chunk: None
        for unit, _ in units:
            node.get(unit)
            node.stack.release(unit)
            assert node.dram.drop(unit.digest), "a pin was left over"
    node.stack.close()
    for path in (tmp_path / "ssd").iterdir():
        assert path.read_bytes() in [data for _, data in units]
