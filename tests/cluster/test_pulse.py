"""A stage whose GPU stands still is noticed, whatever the host has told it already; one that is slow or waits is not."""

import threading
from collections import deque

import pytest
import torch

from cluster.stage import pulse as pulses
from cluster.stage.pace import Pace, Paces, Standing
from cluster.stage.pulse import Pulse

CUDA = torch.device("cuda", 0)
FIRST_S = 60.0
"""A step may take so long while none is known."""


class Mark:
    """An event of a GPU that is played: it has come past it once `passed_ms` says when."""

    def __init__(self) -> None:
        self.passed_ms: float | None = None

    def query(self) -> bool:
        return self.passed_ms is not None

    def elapsed_time(self, end_event: "Mark") -> float:  # type: ignore[override]
        assert self.passed_ms is not None
        assert end_event.passed_ms is not None
        return end_event.passed_ms - self.passed_ms


class Gpu:
    """Comes past its marks in their order."""

    def __init__(self) -> None:
        self.marks: deque[Mark] = deque()

    def mark(self) -> Mark:
        self.marks.append(Mark())
        return self.marks[-1]

    def pass_one(self, at_s: float) -> None:
        self.marks.popleft().passed_ms = at_s * 1000.0


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def pace(gpu: Gpu) -> Pace:
    return Pace(CUDA, gpu.mark)


@pytest.fixture
def pulse(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> Pulse:
    """Its own thread, which looks at the clock, finds nothing: it is asked here."""
    with monkeypatch.context() as quiet:
        quiet.setattr(Pulse, "_run", lambda _self: None)
        return Pulse(lambda: None, lambda _cause: None, FIRST_S, pace)


def _queue(pulse: Pulse, tokens: int) -> None:
    """The host tells the GPU of a step; it calls nothing between, as where a step is a graph."""
    pulse.step(tokens)
    pulse.rest()


def _compute(pulse: Pulse, gpu: Gpu, tokens: int, seconds: float) -> None:
    _queue(pulse, tokens)
    gpu.pass_one(0.0)
    gpu.pass_one(seconds)


def test_the_gpu_is_at_the_oldest_step_that_it_is_not_done_with(pace: Pace, gpu: Gpu) -> None:
    assert pace.standing(0.0) is None
    for tokens in (3, 1):
        pace.begin(tokens)
        pace.end()
    assert pace.standing(1.0) == Standing(3, 0.0, begun=False)
    assert pace.standing(2.5) == Standing(3, 1.5, begun=False)
    gpu.pass_one(0.0)
    assert pace.standing(3.0) == Standing(3, 0.0, begun=True)
    assert pace.standing(3.5) == Standing(3, 0.5, begun=True)
    gpu.pass_one(0.0)
    gpu.pass_one(0.0)
    assert pace.standing(4.0) == Standing(1, 0.0, begun=True)
    gpu.pass_one(0.0)
    assert pace.standing(5.0) is None


def test_steps_are_told_of_as_the_gpu_took_them(pace: Pace, pulse: Pulse, gpu: Gpu) -> None:
    _compute(pulse, gpu, 1, 0.5)
    _compute(pulse, gpu, 100, 2.0)
    _queue(pulse, 1)
    assert pace.take() == Paces(0.5, 0.02)
    assert pace.longest == (2.0, 100)


def test_a_gpu_that_stands_still_within_a_step_is_noticed(pulse: Pulse, gpu: Gpu) -> None:
    """The host had told it everything and waited for a token, which counted as rest."""
    _compute(pulse, gpu, 1, 0.01)
    _queue(pulse, 1)
    gpu.pass_one(1.0)
    assert pulse.fault(100.0) is None
    assert pulse.fault(104.9) is None
    assert "stands still within a step for 5.1 s" in (pulse.fault(105.1) or "")


def test_a_gpu_may_take_longer_where_steps_have_taken_long(pulse: Pulse, gpu: Gpu) -> None:
    _compute(pulse, gpu, 10, 1.0)
    _compute(pulse, gpu, 10, 0.1)
    _queue(pulse, 10)
    gpu.pass_one(1.0)
    assert pulse.fault(0.0) is None
    assert pulse.fault(19.9) is None
    assert pulse.fault(20.1) is not None
    assert [pulse.gpu_allowed_s(tokens) for tokens in (5, 10, 30)] == [20.0, 20.0, 60.0]


def test_a_gpu_may_take_longer_for_a_step_than_the_group_waits(pulse: Pulse, gpu: Gpu) -> None:
    _compute(pulse, gpu, 10, 1.0)
    _queue(pulse, 100)
    gpu.pass_one(1.0)
    assert pulse.fault(0.0) is None
    assert pulse.fault(FIRST_S + 1) is None
    assert pulse.fault(201.0) is not None


def test_before_a_step_is_known_a_gpu_may_take_as_long_as_the_group_waits(pulse: Pulse, gpu: Gpu) -> None:
    _queue(pulse, 1)
    gpu.pass_one(0.0)
    assert pulse.fault(0.0) is None
    assert pulse.fault(FIRST_S - 1) is None
    assert pulse.fault(FIRST_S + 1) is not None


def test_a_gpu_that_goes_on_from_step_to_step_is_not_stuck_however_many_wait(pulse: Pulse, gpu: Gpu) -> None:
    _compute(pulse, gpu, 1, 0.01)
    for _ in range(10):
        _queue(pulse, 1)
    for second in range(0, 30, 3):
        gpu.pass_one(second)
        assert pulse.fault(second) is None
        assert pulse.fault(second + 2.9) is None
        gpu.pass_one(second + 3)
    assert pulse.fault(1000.0) is None


def test_a_step_that_waits_for_what_a_neighbour_sends_is_not_stuck_until_the_group_has_waited(
    pulse: Pulse, gpu: Gpu
) -> None:
    """Hidden states come over the GPU's own queue: the neighbour is at its own step, or dead."""
    _compute(pulse, gpu, 1, 0.01)
    _queue(pulse, 1)
    assert pulse.fault(0.0) is None
    assert pulse.fault(FIRST_S - 1) is None
    assert "has not come to a step" in (pulse.fault(FIRST_S + 1) or "")


def test_a_step_that_waited_for_a_unit_can_stand_still_and_tells_nothing_of_how_long_steps_take(
    pace: Pace, pulse: Pulse, gpu: Gpu
) -> None:
    """Nothing was kept of it: a GPU that hung in the first step of a start was never noticed."""
    pulse.step(1)
    with pulse.waiting():
        pass
    pace.wait(3.0)
    pulse.rest()
    gpu.pass_one(0.0)
    assert pulse.fault(0.0) is None
    assert pulse.fault(FIRST_S + 1) is not None
    gpu.pass_one(9.0)
    assert pulse.fault(FIRST_S + 2) is None
    assert (pace.longest, pace.take()) == (None, Paces(0.0, 0.0))


def test_a_host_that_is_stuck_in_a_layer_is_noticed_as_before(pulse: Pulse) -> None:
    pulse.step(1)
    pulse.layer()
    assert pulse._since_s is not None
    assert pulse.fault(pulse._since_s + FIRST_S + 1) is not None


@pytest.mark.parametrize("failing", [False, True])
def test_what_stands_still_is_told_from_a_thread_of_its_own(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, *, failing: bool
) -> None:
    """A GPU that failed ended that thread, and the stage counted as hung for want of a beat."""
    told, causes = threading.Event(), list[str]()
    monkeypatch.setattr(pulses, "BEAT_EVERY_S", 0.01)
    pace = Pace(CUDA, gpu.mark)

    def stuck(cause: str) -> None:
        causes.append(cause)
        told.set()

    made = Pulse(lambda: None, stuck, 0.02, pace)
    if failing:

        def query() -> bool:
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(Mark, "query", lambda _self: query())
    _queue(made, 1)
    if not failing:
        gpu.pass_one(0.0)
    assert told.wait(20.0)
    assert ("its GPU failed: an illegal memory access" if failing else "stands still within a step") in causes[0]
