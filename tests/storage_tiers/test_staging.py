"""What is brought ahead of its use: whose room it takes, who has its room, when it stands still, what goes to ssd of it."""

import threading
import time
from pathlib import Path

import pytest

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import OutOfSpace, StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.stack import Priority
from tests.storage_tiers.stack_node import WAIT_S, Gate, Node, Units, running

FOREVER_S = 1e9


def _bring(node: Node, unit: UnitIndex, *, keep: bool = True) -> None:
    """To dram, as prewarming does."""
    load = node.stack.load("model", unit, Priority.PREWARM, keep=keep)
    try:
        load.result(WAIT_S)
    finally:
        node.stack.give_up(load)


def _worth(node: Node, *worth: float, units: Units) -> None:
    """Of the units in order, in dram; others are worth nothing there."""
    known = {unit.digest: value for (unit, _), value in zip(units, worth, strict=False)}
    node.dram.retain(lambda digest, last_used: (known.get(digest, 0.0), last_used))


def _held(node: Node, units: Units) -> list[int]:
    return [number for number, (unit, _) in enumerate(units) if node.dram.holds(unit)]


# ---- room


def test_what_is_brought_has_the_room_of_what_is_worth_less(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path, dram_units=2, write_behind=False)) as node:
        _worth(node, 2.0, 1.0, 1.5, units=units)
        for unit, _ in units[:3]:
            _bring(node, unit)
        assert _held(node, units) == [0, 2]


def test_what_is_brought_has_no_room_of_what_is_worth_more(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path, dram_units=2, write_behind=False)) as node:
        _worth(node, 2.0, 1.0, 0.5, units=units)
        for unit, _ in units[:2]:
            _bring(node, unit)
        with pytest.raises(OutOfSpace, match="worth more"):
            _bring(node, units[2][0])
        assert _held(node, units) == [0, 1]


@pytest.mark.parametrize("priority", [Priority.COLD_START, Priority.AFTER_FIRST_TOKEN, Priority.MOVE])
def test_what_somebody_waits_for_has_the_room_of_what_is_worth_more(
    store: ModelStore, tmp_path: Path, units: Units, priority: Priority
) -> None:
    with running(Node(store, tmp_path, dram_units=2, write_behind=False)) as node:
        _worth(node, 2.0, 1.0, units=units)
        for unit, _ in units[:2]:
            _bring(node, unit)
        assert node.load(units[2][0], priority).result(WAIT_S).source == "remote"
        assert _held(node, units) == [0, 2]


def test_what_somebody_waits_for_has_the_room_of_what_is_on_its_way_for_nobody(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    def hold_back(unit: UnitIndex, chunk: int) -> None:
        if unit is units[0][0]:
            gate(unit, chunk)

    with running(Node(store, tmp_path, hold_back, dram_units=1, threads=6, write_behind=False)) as node:
        brought = node.load(units[0][0], Priority.PREWARM)
        assert gate.reached.wait(WAIT_S)
        awaited = node.load(units[1][0])
        gate.open()
        assert bytes(awaited.result(WAIT_S).segment.view) == units[1][1]
        assert isinstance(error := brought.exception(WAIT_S), OutOfSpace)
        assert "made room" in str(error)


def test_what_somebody_else_waits_for_too_is_not_given_up_for_room(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    with running(Node(store, tmp_path, gate, dram_units=1, threads=6, write_behind=False)) as node:
        node.load(units[0][0], Priority.PREWARM)
        both = node.load(units[0][0], Priority.MOVE)
        assert isinstance(node.load(units[1][0]).exception(WAIT_S), OutOfSpace)
        gate.open()
        both.result(WAIT_S)


def test_what_is_brought_gives_up_no_write_to_ssd_for_room(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    """It waits for the write; whoever is waited for would not."""

    def hold_second(unit: UnitIndex, chunk: int) -> None:
        if unit is units[1][0]:
            gate(unit, chunk)

    with running(Node(store, tmp_path, hold_second, dram_units=2, threads=1)) as node:
        first, second = node.load(units[0][0]), node.load(units[1][0])
        node.stack.release(first.result(WAIT_S).unit)
        assert gate.reached.wait(WAIT_S)
        brought = node.load(units[2][0], Priority.PREWARM)
        gate.open()
        brought.result(WAIT_S)
        second.result(WAIT_S)
        assert node.ssd.holds(units[0][0])


# ---- ssd


def test_what_is_brought_to_dram_is_written_to_ssd_if_it_is_wanted_there(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with running(Node(store, tmp_path)) as node:
        _bring(node, units[0][0], keep=False)
        _bring(node, units[1][0])
        loaded = node.get(units[2][0])
        node.settle(loaded)
        assert [node.ssd.holds(unit) for unit, _ in units[:3]] == [False, True, True]


def test_nothing_is_written_to_ssd_for_which_something_worth_more_would_go(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with running(Node(store, tmp_path, ssd_units=1)) as node:
        node.ssd.retain(lambda digest, last_used: (float(digest == units[0][0].digest), last_used))
        node.settle(node.get(units[0][0]))
        node.get(units[1][0])
        assert not node.dram.pins(units[1][0].digest) > 1, "nothing waits to be written"
        with pytest.raises(OutOfSpace, match="worth more"):
            node.settle(node.get(units[1][0]))
        assert node.ssd.holds(units[0][0])


# ---- standing still


def test_what_is_brought_stands_still_while_it_is_held(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path)) as node:
        node.stack.hold_staging(FOREVER_S + time.monotonic())
        brought = node.load(units[0][0], Priority.PREWARM)
        assert node.load(units[1][0]).result(WAIT_S).source == "remote", "the others go on"
        assert not brought.done()
        assert {name for name, _ in node.remote.reads} == {units[1][0].name}
        node.stack.hold_staging(0.0)
        assert bytes(brought.result(WAIT_S).segment.view) == units[0][1]


def test_what_is_held_goes_on_by_itself_when_the_time_is_over(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path)) as node:
        until_s = time.monotonic() + 0.1
        node.stack.hold_staging(until_s)
        node.load(units[0][0], Priority.PREWARM).result(WAIT_S)
        assert time.monotonic() >= until_s


def test_what_is_held_goes_on_at_once_when_somebody_waits_for_it(
    store: ModelStore, tmp_path: Path, units: Units
) -> None:
    with running(Node(store, tmp_path)) as node:
        node.stack.hold_staging(FOREVER_S + time.monotonic())
        brought = node.load(units[0][0], Priority.PREWARM)
        node.load(units[0][0]).result(WAIT_S)
        brought.result(WAIT_S)


def test_what_comes_from_the_nodes_own_ssd_is_not_held(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path)) as node:
        node.settle(node.get(units[0][0]))
        assert node.dram.drop(units[0][0].digest)
        node.stack.hold_staging(FOREVER_S + time.monotonic())
        assert node.load(units[0][0], Priority.PREWARM).result(WAIT_S).source == "ssd"


def test_what_is_held_can_be_given_up(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path)) as node:
        node.stack.hold_staging(FOREVER_S + time.monotonic())
        brought = node.load(units[0][0], Priority.PREWARM)
        node.stack.give_up(brought)
        assert isinstance(brought.exception(WAIT_S), StorageError)
        assert bytes(node.get(units[0][0]).segment.view) == units[0][1]


@pytest.mark.parametrize(("priority", "fetching"), [(Priority.COLD_START, True), (Priority.PREWARM, False)], ids=str)
def test_a_node_fetches_while_a_cold_start_waits_for_the_network(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate, priority: Priority, fetching: bool
) -> None:
    with running(Node(store, tmp_path, gate)) as node:
        assert not node.stack.fetching
        load = node.load(units[0][0], priority)
        assert gate.reached.wait(WAIT_S)
        assert node.stack.fetching is fetching
        gate.open()
        load.result(WAIT_S)
        assert not node.stack.fetching


def test_a_node_fetches_nothing_that_its_own_ssd_has(store: ModelStore, tmp_path: Path, units: Units) -> None:
    with running(Node(store, tmp_path)) as node:
        node.settle(node.get(units[0][0]))
        assert node.dram.drop(units[0][0].digest)
        reading, go_on = threading.Event(), threading.Event()
        read = node.ssd.read

        def wait(*arguments: object) -> None:
            reading.set()
            assert go_on.wait(WAIT_S)
            read(*arguments)  # type: ignore[arg-type]

        node.ssd.read = wait  # type: ignore[method-assign]
        load = node.load(units[0][0])
        assert reading.wait(WAIT_S)
        assert not node.stack.fetching
        go_on.set()
        load.result(WAIT_S)
