"""What was asked for, minute by minute."""

import numpy as np
import pytest

from schedules.foresight.past import MINUTE_S, NEVER_S, Past, past_of
from tests.schedules.foresight.pasts import past

_MODELS = ("often", "once", "never")
_AT_S = np.array([70.0, 61.0, 3600.0, 3725.0, 130.0, 3899.0])
_MODEL = np.array([0, 0, 0, 0, 1, 0])


def _until(until_s: float) -> Past:
    return past_of(_MODELS, _MODEL, _AT_S, 0.0, until_s)


def test_requests_are_counted_in_their_minutes_whatever_their_order() -> None:
    known = _until(3840.0)
    assert known.minutes == 64
    assert {(row, minute): int(known.counts[row, minute]) for row, minute in zip(*np.nonzero(known.counts), strict=True)} == {
        (0, 1): 2, (0, 60): 1, (0, 62): 1, (1, 2): 1,
    }  # fmt: skip
    assert known.last_s.tolist() == [3725.0, 130.0, NEVER_S]


@pytest.mark.parametrize("until_s", [0.0, 60.0, 90.0, 120.0, 180.0, 3600.0, 3900.0])
def test_what_was_known_before_is_what_one_would_have_counted_then(until_s: float) -> None:
    then, counted = _until(3960.0).before(until_s), _until(until_s)
    if until_s % MINUTE_S == 0.0:
        np.testing.assert_array_equal(then.counts, counted.counts)
        np.testing.assert_array_equal(np.ceil(then.last_s / MINUTE_S), np.ceil(counted.last_s / MINUTE_S))
    assert (then.last_s <= until_s).all()
    np.testing.assert_array_equal(then.calls.minute, np.nonzero(then.counts)[1])


def test_a_minute_that_has_just_begun_is_to_come() -> None:
    assert [past({"a": []}, minutes).next_minute for minutes in (10, 10.2, 10.8, 11)] == [10, 10, 11, 11]


def test_calls_know_gaps_and_the_first_and_last_minute() -> None:
    calls = _until(3960.0).calls
    assert calls.latest.tolist() == [64, 2, -1]
    assert calls.earliest.tolist() == [1, 2, -1]
    row, gap = calls.gaps
    assert list(zip(row.tolist(), gap.tolist(), strict=True)) == [(0, 59), (0, 2), (0, 2)]
    assert calls.per_model(calls.count).tolist() == [5.0, 1.0, 0.0]


def test_nobody_changes_what_was() -> None:
    known = _until(3960.0)
    with pytest.raises(ValueError, match="read-only"):
        known.counts[0, 0] = 7


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="are not of 1 models and 3 minutes"):
        Past(("a",), np.zeros((1, 2), np.int32), 0.0, 180.0, np.zeros(1))
    with pytest.raises(ValueError, match="fewer than no requests"):
        Past(("a",), np.full((1, 1), -1, np.int32), 0.0, 60.0, np.zeros(1))
    with pytest.raises(ValueError, match="minutes from"):
        past({"a": []}, 10).before(-1.0)
