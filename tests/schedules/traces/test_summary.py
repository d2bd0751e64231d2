"""Figures of a trace, against traces of which they are known."""

import numpy as np
import pytest

from schedules.traces.summary import over_time, ranked, summarise
from tests.schedules.traces.made import at, trace


def test_rates_are_of_the_whole_time_and_of_the_busiest_minute() -> None:
    found = summarise(at(0.0, 61.0, 62.0, 63.0, 200.0, duration_s=400.0))
    assert (found.requests, found.rate_per_s, found.peak_per_s) == (5, 5 / 400, 3 / 60)


def test_models_are_ranked_by_their_calls() -> None:
    made = trace((0, "a", 1, 1), (1, "b", 1, 1), (2, "b", 1, 1), models=("silent", "a", "b"))
    found = summarise(made)
    assert [(model.model, model.requests) for model in found.popular] == [("b", 2), ("a", 1)]
    assert (found.models, found.called) == (3, 2)
    assert ranked(made, 1) == [2]


def test_cv_is_of_all_gaps_and_the_median_of_the_models_that_have_some() -> None:
    even = [(float(i), "even", 1, 1) for i in range(10)]
    uneven = [(s, "uneven", 1, 1) for s in (0.0, 0.0, 9.0)]
    found = summarise(trace(*even, *uneven, (0.5, "once", 1, 1)))
    assert found.model_cv == pytest.approx(0.5)
    assert summarise(trace(*even)).cv == pytest.approx(0.0)
    assert summarise(at(1.0)).cv is None is summarise(at(1.0)).model_cv


def test_a_request_is_cold_after_a_silence_and_the_first_time() -> None:
    found = summarise(trace((0, "a", 1, 1), (100, "b", 1, 1), (120, "a", 1, 1), (520, "a", 1, 1), (1200, "a", 1, 1)))
    assert found.cold_shares == {60.0: 1.0, 300.0: 4 / 5, 600.0: 3 / 5}


def test_lengths_are_told_by_percentiles() -> None:
    found = summarise(trace(*((float(i), "m", i, 1) for i in range(1, 102)))).tokens["prompt_tokens"]
    assert found == (51.0, 51.0, 91.0, 100.0, 101)


def test_what_has_no_requests_or_no_length_has_figures_too() -> None:
    found = summarise(trace(duration_s=10.0))
    assert (found.requests, found.rate_per_s, found.peak_per_s, found.tokens, found.cold_shares) == (
        0,
        0.0,
        0.0,
        {},
        {},
    )
    assert summarise(at(0.0, 0.0)).rate_per_s == 0.0
    assert over_time(at(0.0, 0.0), 3).tolist() == [2, 0, 0]


def test_arrivals_over_time_are_all_counted_the_last_too() -> None:
    made = trace((0, "a", 1, 1), (4, "b", 1, 1), (9, "a", 1, 1), (10, "a", 1, 1))
    assert over_time(made, 5).tolist() == [1, 0, 1, 0, 2]
    assert over_time(made, 5, made.models.index("b")).tolist() == [0, 0, 1, 0, 0]
    assert np.sum(over_time(made, 7)) == 4
