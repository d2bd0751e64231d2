"""What can wait is read in parts, and makes way between them."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from storage_tiers.errors import Corrupt, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.stack import Priority
from tests.storage_tiers.handmade import CHUNK_BYTES, flip
from tests.storage_tiers.stack_node import CHUNKS, WAIT_S, Gate, Node, Units, running

PARTS = 4
PART_BYTES = CHUNK_BYTES // PARTS


def of(node: Node, name: str) -> list[int]:
    """The chunks of a unit in the order of their reads."""
    return [chunk for unit, chunk in node.remote.reads if unit == name]


def test_what_is_brought_ahead_comes_in_parts_and_what_is_urgent_whole(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with running(Node(store, tmp_path / "ssd")) as node:
        node.stack.read_at_once(2, PART_BYTES)
        for (unit, data), priority, reads in (
            (units[0], Priority.PREWARM, PARTS),
            (units[1], Priority.AFTER_FIRST_TOKEN, PARTS),
            (units[2], Priority.COLD_START, 1),
        ):
            loaded = node.load(unit, priority).result(WAIT_S)
            assert b"".join(loaded.segment.views(0, len(data))) == data
            assert loaded.source == "remote"
            assert Counter(of(node, unit.name)) == dict.fromkeys(range(CHUNKS), reads)
            node.stack.release(unit)


@pytest.mark.parametrize("part_bytes", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 1000], ids=str)
def test_parts_of_any_size_make_the_whole(store: ModelStore, tmp_path: Path, units: Units, part_bytes: int) -> None:
    (unit, data), *_ = units
    with running(Node(store, tmp_path / "ssd")) as node:
        node.stack.read_at_once(1, part_bytes)
        loaded = node.load(unit, Priority.PREWARM).result(WAIT_S)
        assert b"".join(loaded.segment.views(0, len(data))) == data


def test_a_cold_start_comes_in_between_two_parts(store: ModelStore, tmp_path: Path, units: Units, gate: Gate) -> None:
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        node.stack.read_at_once(1, PART_BYTES)
        loads = [node.load(units[0][0], Priority.PREWARM)]
        assert gate.reached.wait(WAIT_S)
        loads.append(node.load(units[3][0], Priority.COLD_START))
        gate.open()
        for load in loads:
            load.result(WAIT_S)
        assert node.remote.reads[: 1 + CHUNKS] == [("unit0", 0), *(("unit3", chunk) for chunk in range(CHUNKS))]
        assert len(of(node, "unit0")) == PARTS * CHUNKS


def test_what_has_come_in_part_is_finished_at_once_when_a_cold_start_wants_it(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    """Nothing that is there already is read again."""
    unit, data = units[0]
    with running(Node(store, tmp_path / "ssd", gate, threads=1)) as node:
        node.stack.read_at_once(1, PART_BYTES)
        node.load(unit, Priority.PREWARM)
        assert gate.reached.wait(WAIT_S)
        other, wanted = node.load(units[1][0], Priority.PREWARM), node.load(unit, Priority.COLD_START)
        gate.open()
        loaded = wanted.result(WAIT_S)
        assert b"".join(loaded.segment.views(0, len(data))) == data
        assert Counter(of(node, unit.name)) == {0: 2, 1: 1, 2: 1}, "a part, its rest, and two whole chunks"
        other.result(WAIT_S)


def test_what_was_given_up_between_two_parts_ends_though_a_cold_start_is_under_way(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    """Whoever wants the unit again waits for its end."""
    unit, data = units[0]
    patient, urgent, go_on = threading.Event(), threading.Event(), threading.Event()

    def hold_up(read: object, _chunk: int) -> None:
        if read != unit:
            urgent.set()
            assert go_on.wait(WAIT_S)
        elif not patient.is_set():
            patient.set()
            assert urgent.wait(WAIT_S)

    with running(Node(store, tmp_path / "ssd", hold_up, threads=6)) as node:
        node.stack.read_at_once(6, PART_BYTES)
        given_up = node.load(unit, Priority.PREWARM)
        assert patient.wait(WAIT_S)
        other = node.load(units[1][0], Priority.COLD_START)
        node.stack.give_up(given_up)
        again = node.load(unit, Priority.COLD_START, ()).result(WAIT_S)
        assert b"".join(again.segment.views(0, len(data))) == data
        assert not other.done()
        go_on.set()
        other.result(WAIT_S)


def test_parts_that_are_wrong_are_found_out_and_never_given_out(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    unit, _ = units[0]
    flip(Path(store.objects.path(store.unit_key("model", unit))), 10)
    with running(Node(store, tmp_path / "ssd")) as node:
        node.stack.read_at_once(1, PART_BYTES)
        assert isinstance(node.load(unit, Priority.PREWARM).exception(WAIT_S), Corrupt)
        assert not node.dram.used_bytes


@pytest.mark.parametrize(
    "error", [StoreUnavailable("not now"), RuntimeError("a tier's mistake")], ids=["away", "broken"]
)
@pytest.mark.parametrize("failing", range(PARTS - 1))
def test_a_part_that_fails_is_made_good_by_the_whole_chunk(
    store: ModelStore, tmp_path: Path, units: Units, failing: int, error: Exception
) -> None:
    unit, data = units[0]
    reads = iter(range(10**6))

    def fail_once(_unit: object, _chunk: int) -> None:
        if next(reads) == failing:
            raise error

    with running(Node(store, tmp_path / "ssd", fail_once, threads=1)) as node:
        node.stack.read_at_once(1, PART_BYTES)
        loaded = node.load(unit, Priority.PREWARM).result(WAIT_S)
        assert b"".join(loaded.segment.views(0, len(data))) == data


def test_closing_between_two_parts_tells_whoever_waits(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    node = Node(store, tmp_path / "ssd", gate, threads=1)
    node.stack.read_at_once(1, PART_BYTES)
    load = node.load(units[0][0], Priority.PREWARM)
    assert gate.reached.wait(WAIT_S)
    closing = threading.Thread(target=node.stack.close)
    closing.start()
    gate.open()
    closing.join(WAIT_S)
    assert isinstance(load.exception(WAIT_S), StorageError)
