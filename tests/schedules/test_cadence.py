"""When flows run, as data."""

import pytest

from schedules.foresight.cadence import FLOWS, ONE_AT_A_TIME, Cadence, cadences, check_cron


def test_every_flow_has_one_cadence_and_runs_only_when_asked_unless_it_has_an_interval() -> None:
    assert set(cadences({"prewarm": 5.0})) == {Cadence(flow, 5.0 if flow == "prewarm" else None) for flow in FLOWS}
    moves = {"consolidate", "migrate", "drain"}
    assert {"publish", "bring", "prewarm", "reap", "backtest", "calibrate", "plan_capacity"} | moves == set(FLOWS)
    assert [cadence.flow for cadence in cadences({})] == list(FLOWS)
    assert set(FLOWS) > ONE_AT_A_TIME


def test_a_flow_runs_by_cron_too() -> None:
    (nightly,) = (cadence for cadence in cadences({"backtest": "30 3 * * *"}) if cadence.flow == "backtest")
    assert (nightly.every_s, nightly.cron) == (None, "30 3 * * *")


def test_an_unknown_flow_is_refused() -> None:
    with pytest.raises(KeyError, match="prewrm"):
        cadences({"prewrm": 5.0})


@pytest.mark.parametrize("every_s", [0.0, -1.0])
def test_time_does_not_run_backwards(every_s: float) -> None:
    with pytest.raises(ValueError, match="cannot run every"):
        cadences({"prewarm": every_s})


def test_an_interval_and_cron_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="not both"):
        Cadence("reap", 60.0, "0 * * * *")


@pytest.mark.parametrize("line", ["* * * * *", "*/5 0-6 1,15 12 7", "0 3 * * 1-5", "10-50/20 * * * *"])
def test_lines_of_cron(line: str) -> None:
    check_cron(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "*/0 * * * *",
        "5-1 * * * *",
        "@daily",
        "x * * * *",
    ],
)
def test_what_is_no_line_of_cron_says_what_is(line: str) -> None:
    with pytest.raises(ValueError, match=r"of cron: (five fields|those) are"):
        check_cron(line)


def test_the_slug_of_a_cadence_is_its_own_and_prefect_allows_it() -> None:
    told = [Cadence("reap"), Cadence("reap", 300.0), Cadence("reap", 1.5), Cadence("reap", cron="*/5 1,2 1-3 * *")]
    assert [cadence.slug for cadence in told] == [
        "",
        "settings-every-300-s",
        "settings-every-1-5-s",
        "settings-cron-xby5-1and2-1to3-x-x",
    ]
