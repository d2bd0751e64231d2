"""What a forecast can be, and what it says."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.foresight.forecast import Forecast

_HALF = np.full((2, 3), 0.5)
_GOOD = Forecast(("a", "b"), 60.0, 2.0 * _HALF, _HALF, np.zeros(2), np.full(2, 5.0), ("tsb", "tsb"))


def test_it_adds_up() -> None:
    assert _GOOD.horizon_s == 180.0
    assert _GOOD.total.tolist() == [3.0, 3.0]
    assert _GOOD.probability.tolist() == [0.5, 0.5]


def test_a_minute_is_as_likely_busy_as_is_said_or_as_if_requests_came_one_by_one() -> None:
    assert _GOOD.busy.tolist() == np.ones((2, 3)).tolist()
    assert replace(_GOOD, alone=_HALF).busy.tolist() == _HALF.tolist()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"expected": np.zeros((1, 3))}, "no forecast of 2 models"),
        ({"by_then": np.zeros((2, 2))}, "no forecast of 2 models"),
        ({"low": np.zeros(1)}, "bounds or methods"),
        ({"methods": ("tsb",)}, "bounds or methods"),
        ({"expected": np.full((2, 3), np.nan)}, "not finite"),
        ({"by_then": np.array([[0.5, 0.4, 0.6]] * 2)}, "falls, or is none"),
        ({"by_then": np.full((2, 3), 1.1)}, "falls, or is none"),
        ({"expected": np.full((2, 3), -1.0)}, "fewer than no requests"),
        ({"low": np.full(2, 6.0)}, "bounds are crossed"),
        ({"alone": np.full((2, 3), 1.5)}, "no such probability"),
        ({"alone": np.zeros((2, 2))}, "no such probability"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_is_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(_GOOD, **wrong)
