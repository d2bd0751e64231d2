"""When flows run, as data."""

import pytest

from schedules.foresight.cadence import FLOWS, Cadence, cadences


def test_every_flow_has_one_cadence_and_runs_only_when_asked_unless_it_has_an_interval() -> None:
    assert set(cadences({"prewarm": 5.0})) == {Cadence(flow, 5.0 if flow == "prewarm" else None) for flow in FLOWS}
    assert {"publish", "prewarm", "calibrate", "plan_capacity", "consolidate", "migrate", "drain"} == set(FLOWS)
    assert [cadence.flow for cadence in cadences({})] == list(FLOWS)


def test_an_unknown_flow_is_refused() -> None:
    with pytest.raises(KeyError, match="prewrm"):
        cadences({"prewrm": 5.0})


@pytest.mark.parametrize("every_s", [0.0, -1.0])
def test_time_does_not_run_backwards(every_s: float) -> None:
    with pytest.raises(ValueError, match="cannot run every"):
        cadences({"prewarm": every_s})
