"""All tiers as one: where units come from, once however many wait, and who goes first."""

import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import pytest

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Missing, OutOfSpace, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.stack import Loaded, Priority
from tests.storage_tiers.handmade import CHUNK_BYTES, store_unit
from tests.storage_tiers.stack_node import CHUNKS, UNIT_BYTES, WAIT_S, Gate, Node, Units, Watched, running
from tests.tiny import make_tiny

# ---- where units come from


def test_a_unit_comes_from_remote_then_from_dram_and_after_a_restart_from_ssd(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd")) as node:
        first, second = node.get(unit), node.get(unit)
        assert (first.source, second.source) == ("remote", "dram")
        assert bytes(first.segment.view) == bytes(second.segment.view) == data
        node.settle(first)
    with running(Node(store, tmp_path / "ssd")) as restarted:
        third = restarted.get(unit)
        assert (third.source, bytes(third.segment.view)) == ("ssd", data)
        assert restarted.remote.reads == []


def test_what_came_from_remote_lands_on_ssd_behind_the_load(node: Node, units: Units, tmp_path: Path) -> None:
    unit, data = units[0]
    node.settle(node.get(unit))
    assert (tmp_path / "ssd" / unit.digest).read_bytes() == data
    assert node.dram.drop(unit.digest), "the load's own pin is undone"


def test_nothing_lands_on_ssd_where_that_is_not_wanted(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path / "ssd", write_behind=False, threads=1)) as node:
        for unit, _ in units:
            node.get(unit)
        assert node.ssd.held() == frozenset()


def test_a_unit_that_the_ssd_cannot_hold_is_loaded_all_the_same(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with running(Node(store, tmp_path / "ssd", ssd_units=0)) as node:
        loaded = node.get(units[0][0])
        with pytest.raises(OutOfSpace):
            node.settle(loaded)
        assert bytes(loaded.segment.view) == units[0][1]


def test_a_peer_is_asked_before_remote_and_remote_when_it_fails(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    def broken(unit: UnitIndex, _chunk: int) -> None:
        if unit.name == "unit1":
            raise StoreUnavailable("the peer is gone")

    peer = Watched(RemoteTier(store), broken, name="peer")
    with running(Node(store, tmp_path / "ssd")) as node:
        good, bad = node.get(units[0][0], peer), node.get(units[1][0], peer)
        assert (good.source, bad.source) == ("peer", "remote")
        assert (bytes(good.segment.view), bytes(bad.segment.view)) == (units[0][1], units[1][1])


def test_a_peer_that_comes_last_is_asked_when_remote_has_not_got_it_and_before_that_is_the_end(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    def lost(unit: UnitIndex, _chunk: int) -> None:
        if unit.name != "unit0":
            raise Missing("the store has lost it")

    def gone(unit: UnitIndex, _chunk: int) -> None:
        if unit.name == "unit2":
            raise StoreUnavailable("the peer is gone")

    peer = Watched(RemoteTier(store), gone, name="peer")
    with running(Node(store, tmp_path / "ssd", lost)) as node:
        loads = [node.stack.load("model", u, Priority.COLD_START, [peer], peers_last=True) for u, _ in units[:3]]
        assert [load.result(WAIT_S).source for load in loads[:2]] == ["remote", "peer"]
        assert bytes(loads[1].result(WAIT_S).segment.view) == units[1][1]
        assert isinstance(loads[2].exception(WAIT_S), Missing)


def test_a_published_model_is_loaded_as_it_lies_in_the_store(store: ModelStore, tmp_path: Path) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store)
    with running(Node(store, tmp_path / "ssd", dram_units=10**3)) as node:
        loads = [node.load(unit) for unit in checkpoint.units]
        for unit, load in zip(checkpoint.units, loads, strict=True):
            stored = Path(store.objects.path(store.unit_key("model", unit))).read_bytes()[: unit.size_bytes]
            assert bytes(load.result(WAIT_S).segment.view) == stored


# ---- one load per unit


def test_however_many_wait_the_store_is_read_once(store: ModelStore, tmp_path: Path, units: Units, gate: Gate) -> None:
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd", gate)) as node:
        loads: list[Future[Loaded]] = []
        threads = [threading.Thread(target=lambda: loads.append(node.load(unit))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not any(load.done() for load in loads)
        gate.open()
        assert all(bytes(load.result(WAIT_S).segment.view) == data for load in loads)
        assert Counter(node.remote.reads) == {("unit0", chunk): 1 for chunk in range(CHUNKS)}


def test_everyone_who_waited_holds_a_pin_of_their_own(node: Node, units: Units) -> None:
    unit, _ = units[0]
    loads = [node.load(unit) for _ in range(3)]
    for load in loads:
        load.result(WAIT_S)
    node.settle(loads[0].result())
    assert not node.dram.drop(unit.digest)
    node.stack.release(unit)
    assert not node.dram.drop(unit.digest)
    node.stack.release(unit)
    assert node.dram.drop(unit.digest)


def test_equal_units_of_two_models_are_one(store: ModelStore, tmp_path: Path, units: Units) -> None:
    unit, data = units[0]
    twin = store_unit(store, "fine-tune", "unit0", data)
    with running(Node(store, tmp_path / "ssd")) as node:
        node.get(unit)
        assert node.stack.load("fine-tune", twin, Priority.COLD_START).result(WAIT_S).source == "dram"


def test_nobody_can_cancel_what_others_wait_for(store: ModelStore, tmp_path: Path, units: Units, gate: Gate) -> None:
    """A waiter that was cancelled ended the worker that had its result, or the stack's close."""
    with running(Node(store, tmp_path / "ssd", gate)) as node:
        load = node.load(units[0][0])
        assert not load.cancel()
        gate.open()
        assert load.result(WAIT_S).source == "remote"


# ---- room


def test_when_everything_is_pinned_there_is_no_room_until_something_is_released(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with running(Node(store, tmp_path / "ssd", dram_units=2, threads=1)) as node:
        first, _second = node.get(units[0][0]), node.get(units[1][0])
        assert isinstance(node.fail(units[2][0]), OutOfSpace)
        node.settle(first)
        assert bytes(node.get(units[2][0]).segment.view) == units[2][1]
        assert node.dram.held() == {units[1][0].digest, units[2][0].digest}


def test_a_model_larger_than_dram_passes_through_it(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path / "ssd", dram_units=1, threads=1)) as node:
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


@pytest.mark.parametrize(
    ("behind", "before"),
    [(Priority.PREWARM, Priority.COLD_START), (Priority.MOVE, Priority.COLD_START), (Priority.PREWARM, Priority.MOVE)],
)
def test_what_is_more_urgent_overtakes(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate, behind: Priority, before: Priority
) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(unit, behind) for unit, _ in units[:3]]
        assert gate.reached.wait(WAIT_S)
        loads.append(node.load(units[3][0], before))
        gate.open()
        for load in loads:
            load.result(WAIT_S)
        assert _order(node.remote.reads) == ["unit0", "unit3", "unit1", "unit2"]
        assert node.remote.reads[1:4] == [("unit3", 0), ("unit3", 1), ("unit3", 2)]


@pytest.mark.parametrize("behind", [Priority.PREWARM, Priority.MOVE])
def test_a_unit_that_is_brought_behind_moves_up_when_a_cold_start_wants_it(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate, behind: Priority
) -> None:
    """It stayed behind everything else that was prewarmed before it."""
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(unit, behind) for unit, _ in units[:4]]
        assert gate.reached.wait(WAIT_S)
        loads.append(node.load(units[3][0], Priority.COLD_START))
        loads.append(node.load(units[2][0], behind))
        gate.open()
        for load in loads:
            load.result(WAIT_S)
        assert _order(node.remote.reads) == ["unit0", "unit3", "unit1", "unit2"]
        assert set(Counter(node.remote.reads).values()) == {1}


def test_what_is_hurried_overtakes_what_came_before_it(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(unit, Priority.MOVE) for unit, _ in units[:4]]
        assert gate.reached.wait(WAIT_S)
        node.stack.hurry(loads[2:])
        gate.open()
        for load in loads:
            load.result(WAIT_S)
        assert _order(node.remote.reads) == ["unit0", "unit2", "unit3", "unit1"]
        assert set(Counter(node.remote.reads).values()) == {1}
        node.stack.hurry(loads)
        assert set(Counter(node.remote.reads).values()) == {1}, "what is there is not read again"


def test_writing_to_ssd_waits_behind_loads(store: ModelStore, tmp_path: Path, units: Units, gate: Gate) -> None:
    on_ssd: list[int] = []

    def note(unit: UnitIndex, chunk: int) -> None:
        gate(unit, chunk)
        on_ssd.append(len(node.ssd.held()))

    with running(Node(store, tmp_path / "ssd", note, threads=1)) as node:
        loads = [node.load(unit, Priority.PREWARM) for unit, _ in units]
        gate.open()
        for load in loads:
            load.result(WAIT_S)
        assert on_ssd == [0] * (len(units) * CHUNKS)


# ---- what may be read before the whole is there


def test_the_watermark_rises_chunk_by_chunk(store: ModelStore, tmp_path: Path, units: Units) -> None:
    second = Gate()

    def hold_second(unit: UnitIndex, chunk: int) -> None:
        if chunk == 1:
            second(unit, chunk)

    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd", hold_second, threads=2)) as node:
        load = node.load(unit)
        under_way = node.stack.transfer(unit)
        assert under_way is not None
        under_way.wait_for(CHUNK_BYTES, WAIT_S)
        assert under_way.watermark_bytes == CHUNK_BYTES
        assert b"".join(under_way.segment.views(0, CHUNK_BYTES)) == data[:CHUNK_BYTES]
        second.open()
        under_way.wait_for(UNIT_BYTES, WAIT_S)
        load.result(WAIT_S)
        assert node.stack.transfer(unit) is None


def test_who_waits_for_a_watermark_hears_of_a_failure(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    store.objects.remove(store.unit_key("model", units[0][0]))
    with running(Node(store, tmp_path / "ssd", gate)) as node:
        load = node.load(units[0][0])
        under_way = node.stack.transfer(units[0][0])
        assert under_way is not None
        gate.open()
        with pytest.raises(Missing):
            under_way.wait_for(UNIT_BYTES, WAIT_S)
        assert isinstance(load.exception(WAIT_S), Missing)
