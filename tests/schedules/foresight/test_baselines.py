"""The methods of others, against figures by hand and their formulas written out."""

import numpy as np
import pytest

from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.hybrid_histogram import HybridHistogram
from schedules.foresight.forecasters.keep_alive import KeepAlive
from schedules.foresight.forecasters.oracle import Oracle
from schedules.foresight.forecasters.poisson import Poisson
from schedules.foresight.forecasters.seasonal_naive import SeasonalNaive
from schedules.foresight.forecasters.tsb import Tsb
from schedules.foresight.forecasters.warmserve import WarmServe
from schedules.foresight.past import MINUTE_S
from tests.schedules.foresight.pasts import DAY_MIN, bursty, past, past_of_trace

_QUARTER_S = 900.0
_EACH_HALF_HOUR = [30.0 * i for i in range(40)]


def _first_held(forecast: Forecast, row: int = 0) -> int | None:
    """The minute from which on a model is to be there."""
    held = forecast.by_then[row] > 0.0
    return int(np.argmax(held)) if held.any() else None


def test_keep_alive_is_sure_of_what_was_called_within_ten_minutes_and_of_nothing_else() -> None:
    known = past({"now": [99.9], "just": [90.0], "before": [89.9], "never": []}, 100)
    forecast = KeepAlive().forecast(known, _QUARTER_S)
    assert forecast.by_then[:, 0].tolist() == forecast.probability.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert KeepAlive(within_s=60.0).forecast(known, _QUARTER_S).probability.tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("age_min", "opens"), [(1, None), (15, 12), (26, 1), (30, 0), (34, 0), (36, None)])
def test_the_histogram_loads_before_the_call_and_keeps_until_it_is_overdue(age_min: int, opens: int | None) -> None:
    """All gaps are of 30 minutes: from 30 less 10 % (27) to 31 and 10 % more (35)."""
    known = past({"a": _EACH_HALF_HOUR}, _EACH_HALF_HOUR[-1] + age_min)
    assert _first_held(HybridHistogram().forecast(known, _QUARTER_S)) == opens


@pytest.mark.parametrize(("age_min", "held"), [(1, True), (238, True), (241, False)])
def test_a_histogram_that_says_nothing_keeps_for_its_whole_range(age_min: int, held: bool) -> None:
    """Four gaps in four bins of 240: their CV is high enough; of one call there is no gap at all."""
    known = past({"a": [5.0]}, 5 + age_min)
    assert (HybridHistogram().forecast(known, MINUTE_S).probability[0] == 1.0) == held


def test_gaps_of_all_lengths_are_a_histogram_that_says_nothing() -> None:
    at_min = np.cumsum(np.arange(1, 240)).astype(float)
    known = past({"even": at_min.tolist()}, at_min[-1] + 1)
    assert HybridHistogram().forecast(known, 240 * MINUTE_S).by_then[0].all()
    assert HybridHistogram(least_cv=0.0).forecast(known, MINUTE_S).by_then[0, 0] == 0.0


@pytest.mark.parametrize(("age_min", "opens"), [(1, None), (500, 10), (600, 0), (692, None)])
def test_what_is_called_more_rarely_than_the_histogram_goes_has_a_window_around_the_middle_gap(
    age_min: int, opens: int | None
) -> None:
    known = past({"a": [0.0, 600.0, 1200.0, 1800.0]}, 1800 + age_min)
    assert _first_held(HybridHistogram().forecast(known, _QUARTER_S)) == opens


def test_warmserve_adds_what_it_was_off_lately_to_the_same_window_of_the_days_before() -> None:
    """Windows of five minutes; a day ago the coming one had 8, two days ago 4; the last had 3 where 1 was usual, before
    that 0 where 2 were."""
    coming, day = 2 * DAY_MIN + 600, DAY_MIN
    at_min = [coming - 2 * day + 0.5] * 4 + [coming - day + 0.5] * 8
    at_min += [coming - 5 - day] * 2 + [coming - 5] * 3 + [coming - 10 - day] * 4
    weights = 0.5 ** np.arange(1, 11)
    correction = (2.0 * weights[0] - 2.0 * weights[1]) / weights.sum()
    forecast = WarmServe().forecast(past({"a": at_min}, coming), 600.0)
    assert forecast.expected[0, :5].sum() == pytest.approx(6.0 + correction)
    assert forecast.expected[0, 5:].sum() == pytest.approx(correction)
    assert forecast.probability[0] == pytest.approx(1.0 - np.exp(-6.0 - 2.0 * correction))


def test_warmserve_leaves_out_the_window_that_is_not_over() -> None:
    known = past({"a": [12.0] * 9}, 13)
    assert WarmServe().forecast(known, 300.0).total[0] == 0.0


def test_seasonal_naive_repeats_yesterday_and_without_it_the_last_hour() -> None:
    yesterday = past({"a": [100.5, 100.6, 103.0]}, 100 + DAY_MIN)
    assert SeasonalNaive().forecast(yesterday, 300.0).expected[0].tolist() == [2.0, 0.0, 0.0, 1.0, 0.0]
    hour = past({"a": [100.5, 103.0]}, 160)
    assert SeasonalNaive().forecast(hour, 300.0).by_then[0].tolist() == [1.0] * 5
    assert SeasonalNaive().forecast(past({"a": [1.0]}, 59), 300.0).total[0] == 0.0


def test_tsb_smooths_chance_and_size_as_its_recursion_does() -> None:
    demand = [0, 3, 0, 0, 5, 1, 0, 0]
    at_min = [5.0 * bucket + 1.0 for bucket, many in enumerate(demand) for _ in range(many)]
    chance = size = weight = 0.0
    for many in demand:
        chance += 0.1 * ((many > 0) - chance)
        if many:
            size, weight = 0.9 * size + 0.1 * many, 0.9 * weight + 0.1
    chance, size = chance / (1.0 - 0.9 ** len(demand)), size / weight
    forecast = Tsb().forecast(past({"a": at_min, "b": []}, 40), 600.0)
    assert forecast.probability[0] == pytest.approx(1.0 - (1.0 - chance) ** 2)
    assert forecast.total[0] == pytest.approx(2.0 * chance * size)
    assert forecast.total[1] == 0.0


def test_a_rate_that_forgets_counts_half_of_what_was_a_half_life_ago() -> None:
    known = past({"then": [0.0] * 10, "now": [120.0] * 10}, 121)
    then, now = Poisson(half_life_min=120.0).forecast(known, MINUTE_S).expected[:, 0]
    assert then == pytest.approx(0.5 * now)


def test_the_oracle_says_what_comes() -> None:
    trace = bursty(4.0, 8, 0.05, 3.0, 3)
    begin_s, until_s = 7200.0, 7200.0 + 5400.0
    oracle = Oracle(trace, begin_s)
    known = past_of_trace(trace, 5400.0)
    later = known.__class__(known.models[::-1], known.counts[::-1], begin_s, until_s, known.last_s[::-1])
    forecast = oracle.forecast(later, _QUARTER_S)
    coming = past_of_trace(trace, 6300.0).counts[::-1, 90:]
    np.testing.assert_array_equal(forecast.expected, coming)
    np.testing.assert_array_equal(forecast.probability, coming.any(axis=1))
    np.testing.assert_array_equal(forecast.low, forecast.high)
