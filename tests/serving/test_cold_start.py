"""The ledger, and what the API shows of a cold start."""

from dataclasses import replace

import pytest

from cluster.wire.phases import Phase
from serving.cold_start import ColdStart, Ledger

START = ColdStart("llama", "g0", ("node-1",), 100.0, 1.5, (Phase("decide", "front end", 100.25, 100.5),))


def numbered(count: int) -> list[ColdStart]:
    """Newest first."""
    return [replace(START, group=f"g{number}") for number in reversed(range(count))]


def test_phases_are_shown_relative_to_the_arrival() -> None:
    (phase,) = START.as_json()["phases"]
    assert (phase["start_s"], phase["end_s"]) == (0.25, 0.5)


def test_a_prediction_is_shown_with_its_relative_error() -> None:
    shown = replace(START, predicted={"ttft_s": 1.25, "degree": 2}).as_json()
    assert shown["predicted"] == {"ttft_s": 1.25, "degree": 2}
    assert shown["prediction_error"] == pytest.approx(0.2)


def test_without_a_prediction_there_is_no_error() -> None:
    shown = START.as_json()
    assert shown["predicted"] is None
    assert "prediction_error" not in shown


def test_what_is_added_is_told_once_and_the_latest_are_kept() -> None:
    told: list[ColdStart] = []
    ledger = Ledger(kept=3, on_add=told.append)
    for start in reversed(numbered(5)):
        ledger.add(start)
    assert told[::-1] == numbered(5)
    assert ledger.latest(None, 10) == numbered(5)[:3]


def test_earlier_cold_starts_come_behind_those_that_are_there_and_none_twice() -> None:
    told: list[ColdStart] = []
    ledger = Ledger(kept=4, on_add=told.append)
    ledger.add(numbered(6)[1])
    ledger.add(numbered(6)[0])
    ledger.restore(numbered(6))
    assert ledger.latest(None, 10) == numbered(6)[:4]
    assert len(told) == 2
