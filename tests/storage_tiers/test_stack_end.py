"""All tiers as one: loads that nobody wants any more, and the end of the stack."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_tiers import retries
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from tests.storage_tiers.handmade import open_descriptors
from tests.storage_tiers.stack_node import UNIT_BYTES, WAIT_S, Gate, Node, Units, running


def _remains(work: Callable[[], None]) -> tuple[int, int, int]:
    """How many descriptors, mapped pools and threads are more after `work` than before; those of others may end meanwhile."""

    def count() -> tuple[int, int, int]:
        gc.collect()
        pools = Path("/proc/self/maps").read_text().count("memfd:firsttoken")
        return open_descriptors(), pools, threading.active_count()

    before = count()
    work()
    after = count()
    return max(0, after[0] - before[0]), max(0, after[1] - before[1]), max(0, after[2] - before[2])


def test_a_load_that_everyone_gave_up_stops_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        loads = [node.load(units[0][0]) for _ in range(2)]
        assert gate.reached.wait(WAIT_S)
        for load in loads:
            node.stack.give_up(load)
        gate.open()
        node.get(units[1][0])
        assert node.remote.reads.count(("unit0", 1)) == 0
        assert node.dram.held() == {units[1][0].digest}
        assert node.dram.used_bytes == UNIT_BYTES


def test_who_asks_again_while_a_load_ends_gets_a_new_one(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    """Whoever came in between was told that the load was being given up."""
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        given_up = node.load(unit)
        assert gate.reached.wait(WAIT_S)
        node.stack.give_up(given_up)
        again, another, unwanted = node.load(unit), node.load(unit), node.load(unit)
        node.stack.give_up(unwanted)
        gate.open()
        assert bytes(again.result(WAIT_S).segment.view) == bytes(another.result(WAIT_S).segment.view) == data
        node.settle(again.result())
        assert not node.dram.drop(unit.digest)
        node.stack.release(unit)
        assert node.dram.drop(unit.digest)
        assert isinstance(unwanted.exception(0), StorageError)


def test_one_who_gives_up_takes_nothing_from_the_others(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        leaving, staying = node.load(units[0][0]), node.load(units[0][0])
        node.stack.give_up(leaving)
        gate.open()
        loaded = staying.result(WAIT_S)
        assert bytes(loaded.segment.view) == units[0][1]
        node.settle(loaded)
        assert node.dram.drop(units[0][0].digest)


def test_who_gives_up_hears_so_at_once(store: ModelStore, tmp_path: Path, units: Units, gate: Gate) -> None:
    """A future that was given up was never done: whoever delivered the unit waited for ever, and with it all it held."""
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        under_way, waiting, late = node.load(units[0][0]), node.load(units[1][0]), node.load(units[0][0])
        assert gate.reached.wait(WAIT_S)
        for load in (late, under_way, waiting):
            node.stack.give_up(load)
            assert "given up" in str(load.exception(0))
        successor = node.load(units[0][0])
        node.stack.give_up(successor)
        assert "given up" in str(successor.exception(0))
        for load in (late, under_way, waiting, successor):
            node.stack.give_up(load)
        gate.open()
        node.settle(node.get(units[2][0]))
        assert node.dram.used_bytes == UNIT_BYTES, "and nothing is held of it"


def test_who_waits_for_a_part_of_what_is_given_up_hears_so(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        load = node.load(units[0][0])
        assert gate.reached.wait(WAIT_S)
        transfer, heard = node.stack.transfer(units[0][0]), list[str]()
        assert transfer is not None

        def wait() -> None:
            with pytest.raises(StorageError) as failed:
                transfer.wait_for(1, 10 * WAIT_S)
            heard.append(str(failed.value))

        waiting = threading.Thread(target=wait)
        waiting.start()
        node.stack.give_up(load)
        waiting.join(WAIT_S)
        assert heard == ["loading unit unit0 was given up"]
        gate.open()


def test_giving_up_what_is_there_releases_it(node: Node, units: Units) -> None:
    load = node.load(units[0][0])
    node.stack.keep_on_ssd(units[0][0], load.result(WAIT_S).segment).result(WAIT_S)
    node.stack.give_up(load)
    assert node.dram.drop(units[0][0].digest)


def test_closing_fails_what_is_unfinished_and_refuses_what_comes(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    """What waited to be written to ssd was never told."""
    node = Node(store, tmp_path / "ssd", threads=1, write_behind=False)
    loaded = node.get(units[0][0])
    node.remote.before = gate
    loads = [node.load(unit) for unit, _ in units[1:4]]
    keeping = node.stack.keep_on_ssd(loaded.unit, loaded.segment)
    assert gate.reached.wait(WAIT_S)
    closing = threading.Thread(target=node.stack.close)
    closing.start()
    while not node.load(units[4][0]).done():
        closing.join(0.01)
    gate.open()
    closing.join(WAIT_S)
    assert all(isinstance(load.exception(0), StorageError) for load in loads)
    assert isinstance(keeping.exception(0), StorageError)
    assert isinstance(node.stack.keep_on_ssd(loaded.unit, loaded.segment).exception(0), StorageError)
    assert node.dram.used_bytes == 0


def test_descriptors_memory_and_threads_end_with_the_stack(store: ModelStore, tmp_path: Path, units: Units) -> None:
    def live() -> None:
        node = Node(store, tmp_path / "ssd")
        for unit, data in units:
            assert bytes(node.get(unit).segment.view) == data
        node.stack.close()

    assert _remains(live) == (0, 0, 0)


def test_releasing_after_the_stack_was_closed_is_harmless(store: ModelStore, tmp_path: Path, units: Units) -> None:
    node = Node(store, tmp_path / "ssd")
    loaded = node.get(units[0][0])
    node.stack.close()
    node.stack.release(loaded.unit)


def test_a_pause_before_the_next_attempt_does_not_hold_up_closing(
    store: ModelStore, tmp_path: Path, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_BACKOFF_S", 10 * WAIT_S)
    failed = threading.Event()

    def fail(_unit: UnitIndex, _chunk: int) -> None:
        failed.set()
        raise StoreUnavailable("the store is restarting")

    node = Node(store, tmp_path / "ssd", fail)
    load = node.load(units[0][0])
    assert failed.wait(WAIT_S)
    node.stack.close()
    assert isinstance(load.exception(0), StorageError)
