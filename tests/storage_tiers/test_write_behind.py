"""Writing units to ssd behind loads, on a node whose dram is tight."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from storage_tiers.errors import OutOfSpace, StorageError
from storage_tiers.model_store import ModelStore
from tests.storage_tiers.stack_node import WAIT_S, Gate, Node, Units, running


class HeldWrites:
    """Writes to ssd stop half-way until they are let go; afterwards they fail if `error` says so."""

    def __init__(self) -> None:
        self.reached, self._go_on = threading.Event(), threading.Event()
        self.error: OSError | None = None

    def __call__(self, _fd: int, views: Sequence[memoryview], _offset_bytes: int) -> int:
        self.reached.set()
        assert self._go_on.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return sum(len(view) for view in views)

    def let_go(self) -> None:
        self._go_on.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldWrites]:
    found = HeldWrites()
    monkeypatch.setattr(os, "pwritev", found)
    yield found
    found.let_go()


def load_and_let_go(node: Node, units: Units, number: int) -> None:
    """Have a unit in dram that nothing but its write to ssd holds."""
    loaded = node.get(units[number][0])
    node.stack.release(loaded.unit)


def settled(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds, now or soon: workers tell others before they have quite ended."""
    for _ in range(int(WAIT_S * 100)):
        if condition():
            return True
        threading.Event().wait(0.01)
    return False


def test_a_write_that_has_not_begun_is_given_up_for_a_load(
    store: ModelStore, tmp_path: Path, units: Units, gate: Gate
) -> None:
    """The load was told that dram was full, by units that were on their way to ssd."""

    def hold_second(unit: object, chunk: int) -> None:
        if getattr(unit, "name", "") == "unit1":
            gate(unit, chunk)  # type: ignore[arg-type]

    with running(Node(store, tmp_path / "ssd", hold_second, dram_units=2, threads=1)) as node:
        first, second = node.load(units[0][0]), node.load(units[1][0])
        node.stack.release(first.result(WAIT_S).unit)
        assert gate.reached.wait(WAIT_S), "the one worker is busy: the first unit's write waits"
        third = node.load(units[2][0])
        gate.open()
        assert bytes(second.result(WAIT_S).segment.view) == units[1][1]
        assert bytes(third.result(WAIT_S).segment.view) == units[2][1]
        node.settle(third.result())
        assert not node.ssd.holds(units[0][0])


def test_a_load_waits_for_the_room_of_a_unit_that_is_being_written(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    with running(Node(store, tmp_path / "ssd", dram_units=1, threads=2)) as node:
        load_and_let_go(node, units, 0)
        assert held.reached.wait(WAIT_S)
        load = node.load(units[1][0])
        assert not load.done()
        held.let_go()
        assert bytes(load.result(WAIT_S).segment.view) == units[1][1]


def test_a_load_has_the_room_also_of_a_unit_whose_write_failed(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    held.error = OSError(28, "No space left on device")
    with running(Node(store, tmp_path / "ssd", dram_units=1, threads=2)) as node:
        load_and_let_go(node, units, 0)
        assert held.reached.wait(WAIT_S)
        load = node.load(units[1][0])
        held.let_go()
        assert bytes(load.result(WAIT_S).segment.view) == units[1][1]


def test_who_waits_for_room_that_then_is_not_enough_hears_so(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    with running(Node(store, tmp_path / "ssd", dram_units=1, threads=2)) as node:
        load_and_let_go(node, units, 0)
        assert held.reached.wait(WAIT_S)
        load = node.load(units[1][0])
        again = node.get(units[0][0])
        assert again.source == "dram"
        held.let_go()
        assert isinstance(load.exception(WAIT_S), OutOfSpace)


def test_who_waits_for_room_may_give_up(store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites) -> None:
    with running(Node(store, tmp_path / "ssd", dram_units=1, threads=2)) as node:
        load_and_let_go(node, units, 0)
        assert held.reached.wait(WAIT_S)
        unwanted = node.load(units[1][0])
        node.stack.give_up(unwanted)
        held.let_go()
        assert settled(lambda: node.dram.drop(units[0][0].digest))
        assert isinstance(unwanted.exception(0), StorageError)
        assert node.dram.used_bytes == 0


def test_who_waits_for_room_hears_of_the_end_of_the_stack(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    node = Node(store, tmp_path / "ssd", dram_units=1, threads=2)
    load_and_let_go(node, units, 0)
    assert held.reached.wait(WAIT_S)
    load = node.load(units[1][0])
    closing = threading.Thread(target=node.stack.close)
    closing.start()
    while not node.load(units[2][0]).done():  # waits for room too, until the stack is closing
        closing.join(0.01)
    held.let_go()
    closing.join(WAIT_S)
    assert isinstance(load.exception(0), StorageError)


def test_writes_never_take_the_threads_that_a_cold_start_needs(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    """A slow disk had all of them, each with a unit, when the next start came."""
    with running(Node(store, tmp_path / "ssd", threads=2)) as node:
        for number in range(3):
            load_and_let_go(node, units, number)
        assert held.reached.wait(WAIT_S)
        for number in range(3, 6):
            assert bytes(node.load(units[number][0]).result(WAIT_S / 3).segment.view) == units[number][1]
        held.let_go()


def test_who_gives_up_a_write_hears_so_and_it_holds_its_unit_no_more(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    with running(Node(store, tmp_path / "ssd", write_behind=False)) as node:
        first, second = node.get(units[0][0]), node.get(units[1][0])
        begun = node.stack.keep_on_ssd(first.unit, first.segment)
        assert held.reached.wait(WAIT_S)
        waiting = [node.stack.keep_on_ssd(second.unit, second.segment) for _ in range(2)]
        node.stack.give_up_keeping(waiting[0])
        assert isinstance(waiting[0].exception(0), StorageError)
        assert node.dram.pins(second.unit.digest) == 2, "somebody else wants it"
        node.stack.give_up_keeping(waiting[1])
        assert node.dram.pins(second.unit.digest) == 1
        node.stack.give_up_keeping(begun)
        assert isinstance(begun.exception(0), StorageError)
        held.let_go()
        assert settled(lambda: node.dram.pins(first.unit.digest) == 1)
        node.stack.give_up_keeping(begun)
        assert not node.ssd.holds(second.unit)


def test_a_unit_that_is_kept_on_request_is_let_go_by_then(
    store: ModelStore, tmp_path: Path, units: Units, held: HeldWrites
) -> None:
    """The load's own write ended a moment later; a unit that was brought to ssd alone then stayed in dram."""
    unit, _ = units[0]
    with running(Node(store, tmp_path / "ssd", threads=2)) as node:
        loaded = node.get(unit)
        assert held.reached.wait(WAIT_S)
        keeping = node.stack.keep_on_ssd(unit, loaded.segment)
        held.let_go()
        keeping.result(WAIT_S)
        node.stack.release(unit)
        assert node.dram.drop(unit.digest)


def test_a_tier_that_raises_what_it_should_not_ends_no_worker(
    store: ModelStore, tmp_path: Path, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died of it, and once all had, nothing was loaded any more."""

    def defect(*_arguments: object) -> int:
        raise ZeroDivisionError("a defect")

    with running(Node(store, tmp_path / "ssd", threads=1)) as node:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwritev", defect)
            loaded = node.get(units[0][0])
            error = node.stack.keep_on_ssd(loaded.unit, loaded.segment).exception(WAIT_S)
            assert isinstance(error, StorageError)
            assert "a defect" in str(error)
        node.settle(node.get(units[1][0]))
        assert node.ssd.holds(units[1][0])
