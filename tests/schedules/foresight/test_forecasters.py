"""What every method keeps to, whatever the past."""

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from schedules.foresight.forecast import Forecaster
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.past import MINUTE_S, Past
from tests.schedules.foresight.pasts import bursty, past, past_of_trace

_NAMES = (
    "keep-alive", "hybrid-histogram", "warmserve", "seasonal-naive", "tsb",
    "renewal", "daily", "timer", "poisson", "mixed", "chosen",
)  # fmt: skip
_UNUSUAL = {
    "nothing": past({"a": []}, 0),
    "no models": past({"a": []}, 90).__class__((), np.zeros((0, 90), np.int32), 0.0, 90 * MINUTE_S, np.zeros(0)),
    "never": past({"a": [], "b": []}, 3000),
    "once": past({"a": [0.5], "b": []}, 3000),
    "just now": past({"a": [10.5], "b": [10.99]}, 11),
    "in the middle of a minute": past({"a": [0.1, 7.2, 300.3], "b": [5.0]}, 300.4, begin_s=86_400.0 * 20_000 + 120.0),
    "always": past({"a": np.arange(0, 3000, 0.25).tolist(), "b": [7.0]}, 3000),
}


def test_all_have_the_names_by_which_they_are_asked_for() -> None:
    assert tuple(sorted(FORECASTERS)) == tuple(sorted(_NAMES))
    assert all(name == forecaster.name for name, forecaster in FORECASTERS.items())


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("unusual", _UNUSUAL)
@pytest.mark.parametrize("minutes", [1, 15, 90])
def test_an_unusual_past_has_a_forecast_too(name: str, unusual: str, minutes: int) -> None:
    known = _UNUSUAL[unusual]
    forecast = FORECASTERS[name].forecast(known, minutes * MINUTE_S)
    assert forecast.models == known.models
    assert forecast.at_s == known.until_s
    assert forecast.expected.shape == (len(known.models), minutes)
    assert len(forecast.methods) == len(known.models)


@pytest.fixture(scope="module")
def lively() -> Past:
    return past_of_trace(bursty(4.0, 40, 0.05, 30.0, 1), 29.0 * 3600.0 + 20.0)


@pytest.mark.parametrize("name", _NAMES)
def test_the_same_past_has_the_same_forecast_here_and_in_another_process(name: str, lively: Past) -> None:
    forecaster = FORECASTERS[name]
    sent: Forecaster = pickle.loads(pickle.dumps(forecaster))
    once = forecaster.forecast(lively, 900.0)
    for again in (forecaster.forecast(lively, 900.0), sent.forecast(pickle.loads(pickle.dumps(lively)), 900.0)):
        for column in ("expected", "by_then", "low", "high"):
            np.testing.assert_array_equal(getattr(again, column), getattr(once, column))
        assert again.methods == once.methods


@pytest.mark.parametrize("name", _NAMES)
def test_a_method_is_a_value_that_cannot_be_changed(name: str) -> None:
    forecaster = FORECASTERS[name]
    assert pickle.loads(pickle.dumps(forecaster)) == forecaster
    with pytest.raises((FrozenInstanceError, AttributeError)):
        forecaster.name = "another"  # type: ignore[misc]


@pytest.mark.parametrize("name", _NAMES)
def test_what_came_after_the_past_is_not_looked_at(name: str, lively: Past) -> None:
    until_s = 26.0 * 3600.0
    once = FORECASTERS[name].forecast(lively.before(until_s), 900.0)
    told = past_of_trace(bursty(4.0, 40, 0.05, 30.0, 1), until_s)
    again = FORECASTERS[name].forecast(told, 900.0)
    np.testing.assert_allclose(again.by_then, once.by_then, atol=1e-12)


def test_what_was_found_is_not_sent_along(lively: Past) -> None:
    chosen = FORECASTERS["chosen"]
    sent = len(pickle.dumps(chosen))
    chosen.forecast(lively, 900.0)
    assert len(pickle.dumps(chosen)) == sent
