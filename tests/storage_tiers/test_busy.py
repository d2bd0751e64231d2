"""How fast bytes come, measured beside the transfers: by a clock of the test's, and of a link of a set rate."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.busy import GAP_S, WINDOW_S, Busy
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.stack import Priority, TierStack
from storage_tiers.tiers.wrappers import Throttled
from tests.storage_tiers.handmade import store_units
from tests.storage_tiers.stack_node import WAIT_S, Node, running

MB = 1_000_000


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def busy(clock: Clock) -> Busy:
    return Busy(clock)


def read(busy: Busy, clock: Clock, seconds: float, size_bytes: int) -> None:
    one = busy.begin()
    clock.now_s += seconds
    busy.end(one, size_bytes)


def test_a_window_is_told_when_it_is_over(busy: Busy, clock: Clock) -> None:
    read(busy, clock, 0.2, 4 * MB)
    assert busy.take() == [], "another chunk may follow at once"
    clock.now_s += 2 * GAP_S
    assert busy.take() == [pytest.approx(20 * MB)]
    assert busy.take() == []


def test_a_pause_between_two_windows_does_not_count(busy: Busy, clock: Clock) -> None:
    for _ in range(2):
        read(busy, clock, 0.1, 2 * MB)
        clock.now_s += 10
    assert busy.take() == [pytest.approx(20 * MB)] * 2


def test_chunks_that_follow_at_once_are_one_window(busy: Busy, clock: Clock) -> None:
    for _ in range(4):
        read(busy, clock, 0.1, MB)
    clock.now_s += 1
    assert busy.take() == [pytest.approx(10 * MB)]


def test_readers_beside_each_other_add_up(busy: Busy, clock: Clock) -> None:
    several = [busy.begin() for _ in range(4)]
    clock.now_s += 0.25
    for one in several:
        busy.end(one, MB)
    clock.now_s += 1
    assert busy.take() == [pytest.approx(16 * MB)]


def test_large_chunks_that_end_together_are_no_standstill_and_leap(busy: Busy, clock: Clock) -> None:
    """Over a slow link eight chunks take seconds and end at the same time: the rate was even all along."""
    several = [busy.begin() for _ in range(8)]
    for index, one in enumerate(several):
        clock.now_s = 104.0 + index / 1000
        busy.end(one, 8 * MB)
    clock.now_s += 1
    samples = busy.take()
    assert samples
    assert all(sample == pytest.approx(16 * MB, rel=0.01) for sample in samples)


def test_a_long_load_is_told_of_while_it_runs(busy: Busy, clock: Clock) -> None:
    for _ in range(20):
        read(busy, clock, WINDOW_S / 4, MB)
    assert len(busy.take()) == 5


@pytest.mark.parametrize(("seconds", "size_bytes"), [(0.001, 1000), (0.2, 1000), (3.0, 0)])
def test_what_tells_of_delays_and_not_of_speed_is_no_sample(
    busy: Busy, clock: Clock, seconds: float, size_bytes: int
) -> None:
    read(busy, clock, seconds, size_bytes)
    clock.now_s += 1
    assert busy.take() == []


@given(st.lists(st.tuples(st.floats(0.001, 2.0), st.integers(0, 7), st.integers(0, 20 * MB)), min_size=1, max_size=40))
def test_no_sample_is_faster_than_the_reads_were_together(steps: list[tuple[float, int, int]]) -> None:
    """However reads overlap: a rate is at most the number of readers times the fastest of them."""
    clock = Clock()
    busy = Busy(clock)
    under_way: dict[int, tuple[int, float]] = {}
    fastest = 0.0
    for seconds, reader, size_bytes in steps:
        clock.now_s += seconds
        if reader in under_way:
            one, since_s = under_way.pop(reader)
            busy.end(one, size_bytes)
            fastest = max(fastest, size_bytes / (clock.now_s - since_s))
        else:
            under_way[reader] = (busy.begin(), clock.now_s)
    assert all(0 < sample <= 8 * fastest * (1 + 1e-9) for sample in busy.take())


def test_a_stack_measures_a_link_of_a_set_rate(store: ModelStore, tmp_path: Path) -> None:
    rate = 20 * MB
    units = store_units(store, count=6, chunks=500)
    node = Node(store, tmp_path / "ssd", dram_units=4000)
    slow = Throttled(RemoteTier(store), rate)
    stack = TierStack(node.dram, node.ssd, store, 4, lambda: 0.0, slow)
    with running(node):
        began_s = time.monotonic()
        loads = [stack.load("model", unit, Priority.COLD_START) for unit, _ in units]
        for load in loads:
            load.result(WAIT_S)
        took_s = time.monotonic() - began_s
        samples = stack.network.take()
        stack.close()
    was = sum(unit.size_bytes for unit, _ in units) / took_s  # the set rate, less what the machine stood still
    assert 0.65 * was <= sum(samples) / len(samples) <= 1.5 * rate, (samples, was)  # after which a while is faster
    assert stack.from_ssd.take() == []


def test_what_comes_from_ssd_is_measured_apart(store: ModelStore, tmp_path: Path) -> None:
    ((unit, _),) = store_units(store, count=1, chunks=500)
    with running(Node(store, tmp_path / "ssd", dram_units=400, ssd_units=400)) as node:
        node.settle(node.get(unit))
        node.dram.drop(unit.digest)
        time.sleep(2 * GAP_S)
        node.stack.network.take()
        node.get(unit)
        time.sleep(2 * GAP_S)
    assert len(node.stack.from_ssd.take()) == 1
    assert node.stack.network.take() == []


@pytest.mark.parametrize("priority", [Priority.MOVE, Priority.PREWARM])
def test_what_makes_way_for_others_tells_nothing_of_the_network(
    store: ModelStore, tmp_path: Path, priority: Priority
) -> None:
    ((unit, _),) = store_units(store, count=1, chunks=500)
    with running(Node(store, tmp_path / "ssd", dram_units=400, ssd_units=400)) as node:
        node.load(unit, priority).result(WAIT_S)
        time.sleep(2 * GAP_S)
        assert node.stack.network.take() == []
