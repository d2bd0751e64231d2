"""How a stage takes units, without a process around it: one behind the other to a GPU that is played, in place on a CPU."""

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from cluster.errors import StageFailed
from cluster.stage.main import _await_order
from cluster.stage.units import NodeMemory, Tensors, UnitsByCopy, UnitsInPlace
from cluster.wire.codec import Channel
from cluster.wire.stages import PoolHere, PoolReal, RowsHere, UnitCopied, UnitHere
from storage_tiers.checkpoint import TensorSpec, UnitIndex, lay_out
from storage_tiers.tiers.cuda_copy import CudaCopy
from storage_tiers.tiers.device import DeviceTier
from storage_tiers.tiers.shared_memory import BlockPool
from tests.storage_tiers.fake_driver import FakeDriver
from tests.storage_tiers.handmade import open_descriptors

_BLOCK = 4096
_PIECE = 2 * _BLOCK


@dataclass
class PlayedStage:
    """Writes down what its units come to, and waits in `assign` while `may_assign` is not set."""

    events: list[str] = field(default_factory=list)
    assigned: dict[str, torch.Tensor] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    copied: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    built: bool = True

    def wait_until_built(self) -> None:
        if not self.built:
            raise StageFailed("the skeleton was not built in time")

    def assign(self, unit: UnitIndex, tensors: Tensors) -> None:
        self.events.append(f"assign {unit.name}")
        self.assigned[unit.name] = tensors["t"].clone()

    def tell(self, message: object) -> None:
        assert isinstance(message, UnitCopied)
        self.events.append(f"tell {message.digest[0]}")
        self.copied.release()

    def tell_phase(self, name: str, started_s: float, size_bytes: int = 0) -> None:
        self.events.append(f"{name}: {size_bytes}")

    def fail(self, error: Exception) -> None:
        self.faults.append(f"{type(error).__name__}: {error}")


class Node:
    """Memory with units that are all one number, before a GPU that is played."""

    def __init__(self) -> None:
        self.memory = BlockPool(64 * _BLOCK, block_bytes=_BLOCK, piece_bytes=_PIECE)
        self.driver, self.stage = FakeDriver(), PlayedStage()
        self.copy = CudaCopy(self.driver)
        self.known = NodeMemory(self.copy)

    def tell_of_memory(self) -> None:
        self.known.hear(PoolHere(_PIECE), self.descriptor())
        self.known.hear(PoolReal(self.memory.real_pieces()), None)

    def descriptor(self) -> int:
        """As it comes over a channel: the receiver's to close."""
        return os.dup(self.memory.read_only_fd)

    def unit(self, number: int) -> UnitHere:
        layout = lay_out([TensorSpec("t", "uint8", (3 * _BLOCK,))])
        unit = UnitIndex(f"u{number}", f"_v/u{number}", str(number) * 64, layout, (0,) * layout.chunks)
        runs = self.memory.allocate(unit.size_bytes)
        for view in self.memory.views(runs, 0, unit.size_bytes):
            view[:] = bytes([number]) * len(view)
        return UnitHere(unit, runs)

    def by_copy(self, budget_bytes: int = 1 << 20) -> UnitsByCopy:
        return UnitsByCopy(self.stage, DeviceTier(budget_bytes, self.copy), self.known)


@pytest.fixture
def node() -> Iterator[Node]:
    before = open_descriptors()
    made = Node()
    yield made
    made.known.close()
    made.memory.close()
    assert open_descriptors() == before
    assert not made.driver.pinned_ranges


def _told(number: int) -> list[str]:
    return [f"copy u{number}: {3 * _BLOCK}", f"tell {number}", f"assign u{number}"]


def _right(assigned: dict[str, torch.Tensor], number: int) -> bool:
    return bool((assigned[f"u{number}"] == number).all())


@pytest.mark.parametrize("told", [True, False], ids=["told of the memory", "by the units alone"])
def test_units_are_copied_told_of_and_used_in_order(node: Node, told: bool) -> None:
    here = [node.unit(number) for number in range(5)]
    if told:
        node.tell_of_memory()
    units = node.by_copy()
    for each in here:
        units.take(each, node.descriptor())
    units.close()
    assert node.stage.events == [line for number in range(5) for line in _told(number)]
    assert all(_right(node.stage.assigned, number) for number in range(5))
    assert bool(node.driver.asked) == told


def test_two_units_are_queued_and_no_more_until_one_is_there(node: Node) -> None:
    """With one the bus would rest while it is used; with all a step's own small copies would wait for all."""
    here = [node.unit(number) for number in range(5)]
    node.tell_of_memory()
    node.driver.may_go_on.clear()
    units = node.by_copy()
    for each in here:
        units.take(each, node.descriptor())
    while len(node.driver.rooms) < 2:
        threading.Event().wait(0.001)
    threading.Event().wait(0.05)
    assert len(node.driver.rooms) == 2
    assert not node.stage.events
    node.driver.may_go_on.set()
    units.close()
    assert len(node.driver.rooms) == 5


def test_the_time_of_a_copy_is_that_of_its_own_bytes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates learn from it: a wait behind another unit is none of it."""
    monkeypatch.setattr("cluster.stage.units.time.monotonic", lambda: 100.0)
    started: list[float] = []
    monkeypatch.setattr(node.stage, "tell_phase", lambda _name, started_s, _size_bytes: started.append(started_s))
    here = [node.unit(number) for number in range(4)]
    units = node.by_copy()
    for each in here:
        units.take(each, node.descriptor())
    units.close()
    assert len(node.driver.copied) == 4
    assert started == pytest.approx([100.0 - 0.001] * 4)


@pytest.mark.parametrize("fault", ["budget", "room", "device"])
def test_what_goes_wrong_is_said_once_and_ends_both_threads(node: Node, fault: str) -> None:
    here = [node.unit(number) for number in range(5)]
    if fault == "room":
        node.driver.room_bytes = _BLOCK
    if fault == "device":
        node.driver.fault = "CUDA error: an illegal memory access"
    units = node.by_copy(budget_bytes=7 * _BLOCK if fault == "budget" else 1 << 20)
    for each in here:
        units.take(each, node.descriptor())
    units.close()
    (said,) = node.stage.faults
    assert said.startswith({"budget": "OutOfSpace", "room": "OutOfMemoryError", "device": "RuntimeError"}[fault])
    assert node.stage.events == ([*_told(0), *_told(1)] if fault == "budget" else [])


def test_without_a_descriptor_there_is_no_memory_but_one_is_enough(node: Node) -> None:
    here = [node.unit(number) for number in range(2)]
    node.known.hear(PoolHere(_PIECE), None)  # a process may have no more of them
    node.known.hear(PoolReal((0,)), None)
    units = node.by_copy()
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        units.take(here[0], None)
    units.take(here[0], node.descriptor())
    units.take(here[1], None)
    units.close()
    assert node.stage.events == [*_told(0), *_told(1)]


def test_memory_that_is_told_of_twice_is_mapped_once(node: Node) -> None:
    node.unit(1)
    node.tell_of_memory()
    pool = node.known.open(None)
    assert pool.wait(0)
    node.tell_of_memory()
    assert node.known.open(node.descriptor()) is pool
    assert len(node.driver.asked) == len(node.memory.real_pieces())


def test_pieces_are_pinned_in_the_order_in_which_units_will_be_copied(node: Node) -> None:
    """Ahead of the copies: the unit that is copied is not the only one that is wanted."""
    here = [node.unit(number) for number in range(8)]
    node.driver.may_pin.clear()
    node.tell_of_memory()
    assert node.driver.pins_now.wait(30)
    units = node.by_copy()
    for number in (6, 2, 4):
        units.take(here[number], None)
    node.driver.may_pin.set()
    units.close()
    assert node.known.open(None).wait(1)
    first = [(address - min(node.driver.asked)) // _PIECE for address in node.driver.asked][1:7]
    assert [number for number in first if number in (9, 3, 6)] == [9, 3, 6]
    assert set(first) == {9, 10, 3, 4, 6, 7}


@pytest.mark.parametrize("known", [True, False])
def test_a_process_with_an_order_pins_for_its_units_alone(node: Node, known: bool) -> None:
    """Whether or not it had heard of the memory before."""
    here = [node.unit(number) for number in range(4)]
    if known:
        node.known.hear(PoolHere(_PIECE), node.descriptor())
    node.known.pin_what_is_wanted()
    node.tell_of_memory()
    units = node.by_copy()
    units.take(here[1], node.descriptor())
    units.close()
    assert node.stage.events == _told(1)
    assert len(node.driver.asked) == 2


@pytest.mark.parametrize("gpu", [True, False])
def test_news_of_memory_come_before_the_order_and_leave_no_descriptor(node: Node, gpu: bool) -> None:
    """On a CPU there is no use for them."""
    node.unit(1)
    ours, theirs = Channel.pair()
    before = open_descriptors()
    agent, process = Channel(ours), Channel(theirs)
    agent.send(PoolHere(_PIECE), node.memory.read_only_fd)
    agent.send(PoolReal(node.memory.real_pieces()))
    agent.send(RowsHere((1,), b"1"))
    assert _await_order(process, node.known if gpu else None) == RowsHere((1,), b"1")
    assert open_descriptors() == before
    if gpu:
        assert node.known.open(None).wait(0)
    agent.close()
    with pytest.raises(EOFError):
        _await_order(process, node.known)
    process.close()


def test_on_a_cpu_a_unit_is_used_in_place_when_the_skeleton_stands(node: Node) -> None:
    units = UnitsInPlace(node.stage, DeviceTier(1 << 20))
    units.take(node.unit(1), node.descriptor())
    assert (node.stage.events, _right(node.stage.assigned, 1)) == (["assign u1"], True)
    node.stage.built = False
    with pytest.raises(StageFailed, match="in time"):
        units.take(node.unit(2), node.descriptor())
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        units.take(node.unit(3), None)
