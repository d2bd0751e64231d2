"""When flows run, as data."""

import pytest

from schedules.foresight.cadence import CADENCES, CALIBRATE, PREWARM, PUBLISH, Cadence, with_intervals


def test_prewarm_runs_every_few_minutes_and_publish_only_when_asked() -> None:
    assert (PREWARM.every_s, PUBLISH.every_s) == (300.0, None)


def test_every_flow_has_one_cadence() -> None:
    assert len({cadence.flow for cadence in CADENCES}) == len(CADENCES)


def test_an_interval_can_be_replaced_and_the_others_stay() -> None:
    assert with_intervals(CADENCES, {"prewarm": 5.0}) == (PUBLISH, Cadence("prewarm", 5.0), CALIBRATE)


def test_an_unknown_flow_is_refused() -> None:
    with pytest.raises(KeyError, match="prewrm"):
        with_intervals(CADENCES, {"prewrm": 5.0})


@pytest.mark.parametrize("every_s", [0.0, -1.0])
def test_time_does_not_run_backwards(every_s: float) -> None:
    with pytest.raises(ValueError, match="cannot run every"):
        Cadence("prewarm", every_s)
