"""Requests played again, and what a method knows then."""

from dataclasses import dataclass, field

import numpy as np

from flows.backtesting.playing import KNOWING, PREWARMED, REACTIVE, Played, Remembering, gap_closed
from schedules.foresight.forecast import Forecast
from schedules.foresight.past import NEVER_S, Past, past_of


@dataclass(frozen=True)
class Seeing:
    """Remembers what it was shown."""

    seen: list[Past] = field(default_factory=list)
    name: str = "seeing"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        self.seen.append(past)
        nothing, none = np.zeros((len(past.models), 1)), np.zeros(len(past.models))
        return Forecast(past.models, past.until_s, nothing, nothing, none, none)


BEFORE = past_of(["b", "a"], np.array([0, 1, 1]), np.array([86_400.0, 90_000.0, 93_700.0]), 86_400.0, 94_000.0)


def test_what_came_before_the_trace_is_known_on_its_clock_and_what_came_in_it_only_as_far_as_the_trace_shows() -> None:
    seeing = Seeing()
    shown = past_of(["a", "new"], np.array([0, 1]), np.array([30.0, 100.0]), 0.0, 180.0)
    said = Remembering(seeing, BEFORE, 93_600.0).forecast(shown, 60.0)
    (whole,) = seeing.seen
    assert (whole.models, whole.begin_s, whole.until_s) == (("a", "new"), 86_400.0, 93_780.0)
    assert whole.counts.sum(axis=1).tolist() == [2, 1]
    assert [int(minute) for minute in np.flatnonzero(whole.counts[0])] == [60, 120]
    assert whole.last_s.tolist() == [93_630.0, 93_700.0]
    assert said.at_s == 180.0


def test_a_model_that_never_came_never_did() -> None:
    seeing = Seeing()
    shown = past_of(["x"], np.array([], np.int64), np.array([]), 0.0, 60.0)
    Remembering(seeing, BEFORE, 93_600.0).forecast(shown, 60.0)
    assert seeing.seen[0].last_s.tolist() == [NEVER_S]


def test_how_much_of_the_gap_is_closed() -> None:
    def played(*waited_s: float) -> list[Played]:
        both = zip((REACTIVE, PREWARMED, KNOWING), waited_s, strict=True)
        return [Played(name, 10, 1, 0.1, 0.2, 0.3, waited, 0) for name, waited in both]

    assert gap_closed(played(10.0, 4.0, 2.0)) == 0.75
    assert gap_closed(played(10.0, 12.0, 2.0)) == -0.25
    assert gap_closed(played(2.0, 2.0, 2.0)) is None
