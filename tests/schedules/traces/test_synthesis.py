"""Requests that nobody has sent: within the bounds that chance allows, by fixed seeds."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.traces.errors import BadWish
from schedules.traces.lineup import numbered, preset
from schedules.traces.renewals import arrivals_within
from schedules.traces.summary import over_time, summarise
from schedules.traces.synthesis import DAY_S, Recipe, synthesise
from schedules.traces.trace import LONGEST_S, MOST_REQUESTS, Trace

SEED = 3
RECIPE = Recipe(numbered(20), rate_per_s=2.0, duration_s=10_000.0)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_gaps_have_the_cv(cv: float) -> None:
    at_s = arrivals_within(100_000.0, 1.0, cv, np.random.default_rng(SEED))
    gaps = np.diff(at_s)
    assert abs(gaps.std() / gaps.mean() - cv) <= 0.08 * cv + 1e-9
    assert (gaps >= 0).all()


@pytest.mark.parametrize("cv", [0.0, 1.0, 8.0])
def test_a_process_has_its_rate_from_its_begin_on(cv: float) -> None:
    """One that begins with a request has 31 too many with a CV of 8: three times as many as it should have here."""
    rng = np.random.default_rng(SEED)
    counts = [len(arrivals_within(10.0, 1.0, cv, rng)) for _ in range(4000)]
    assert abs(np.mean(counts) - 10.0) < 4 * max(np.std(counts), 1.0) / len(counts) ** 0.5


def test_there_are_no_arrivals_in_no_time_nor_at_no_rate() -> None:
    rng = np.random.default_rng(SEED)
    assert not len(arrivals_within(0.0, 1.0, 1.0, rng))
    assert not len(arrivals_within(1.0, 0.0, 1.0, rng))
    for rate, cv in ((float("nan"), 1.0), (1.0, -1.0), (1.0, 101.0), (3.0 * MOST_REQUESTS, 1.0)):
        with pytest.raises(BadWish):
            arrivals_within(1.0, rate, cv, rng)


@pytest.mark.parametrize("cv", [1.0, 4.0, 8.0])
def test_the_rate_is_met_exactly_however_bursty(cv: float) -> None:
    made = synthesise(replace(RECIPE, cv=cv), SEED)
    assert (len(made), made.duration_s) == (20_000, 10_000.0)
    assert (np.diff(made.at_s) >= 0).all()


@pytest.mark.parametrize("cv", [1.0, 4.0])
def test_each_model_is_as_bursty_as_wanted(cv: float) -> None:
    made = synthesise(replace(RECIPE, cv=cv, duration_s=100_000.0), SEED)
    found = summarise(made).model_cv
    assert found is not None
    assert abs(found - cv) < 0.05 * cv


def test_the_same_seed_makes_the_same_trace() -> None:
    bursty = replace(RECIPE, cv=4.0, daily=3, bursts=2, wave=0.5)
    assert synthesise(bursty, SEED) == synthesise(bursty, SEED)
    assert synthesise(bursty, SEED) != synthesise(bursty, SEED + 1)


def test_popularity_is_skewed() -> None:
    calls = np.bincount(synthesise(replace(RECIPE, skew=1.0, duration_s=50_000.0), SEED).model)
    assert abs(calls[0] / calls[9] - 10) < 1.0
    even = np.bincount(synthesise(replace(RECIPE, skew=0.0), SEED).model, minlength=20)
    assert even.max() < 1.3 * even.min()


def test_a_wave_is_lowest_at_the_begin_of_a_day_and_keeps_the_rate() -> None:
    made = synthesise(replace(RECIPE, rate_per_s=1.0, duration_s=2 * DAY_S, wave=0.8), SEED)
    hours = over_time(made, 48)
    assert len(made) == 2 * DAY_S
    assert hours[0] < 0.3 * 3600 < 1.7 * 3600 < hours[12]
    assert abs(hours[24] - hours[0]) < 300


def test_daily_models_are_called_once_every_day_at_their_time() -> None:
    made = synthesise(replace(RECIPE, rate_per_s=0.01, duration_s=3 * DAY_S, daily=5), SEED)
    for model in range(20, 25):
        assert np.allclose(np.diff(made.at_s[made.model == model]), DAY_S)
    assert np.bincount(made.model).tolist()[20:] == [3] * 5
    assert made.models[-1] == "daily-4"


def test_a_burst_is_many_calls_of_one_model_within_its_time() -> None:
    made = synthesise(replace(RECIPE, rate_per_s=0.0001, bursts=1, burst_requests=300, burst_s=5.0), SEED)
    assert len(made) == 301
    busiest = made.at_s[made.model == np.bincount(made.model).argmax()]
    assert 3.0 < np.percentile(busiest, 95) - np.percentile(busiest, 5) <= 5.0


@pytest.mark.parametrize(("name", "requests"), [("hydraserve", 2160), ("serverlessllm", 960)])
def test_a_preset_makes_a_trace_as_its_paper(name: str, requests: int) -> None:
    known = preset(name)
    made = synthesise(
        Recipe(
            known.lineup, known.rate_per_s, known.duration_s, known.cv, known.skew,
            max_prompt_tokens=known.max_prompt_tokens, max_tokens=known.max_tokens,
        ),
        SEED,
    )  # fmt: skip
    assert len(made) == requests
    assert made.prompt_tokens.max() == known.max_prompt_tokens
    assert bool(made.targets) == (name == "hydraserve")


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration_s": 0.0}, {"duration_s": float("nan")}, {"duration_s": LONGEST_S * 2}, {"rate_per_s": 0.0},
        {"rate_per_s": float("nan")}, {"rate_per_s": 1e9}, {"wave": 1.5}, {"wave": float("nan")}, {"skew": -1.0},
        {"daily": -1}, {"bursts": -1}, {"burst_requests": 0}, {"burst_s": -1.0}, {"bursts": MOST_REQUESTS},
    ],
)  # fmt: skip
def test_a_recipe_that_nothing_can_be_made_of_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadWish):
        replace(RECIPE, **wrong)


def test_a_cv_that_so_few_requests_cannot_have_still_ends() -> None:
    made: Trace = synthesise(Recipe(numbered(1), rate_per_s=0.01, duration_s=100.0, cv=100.0), SEED)
    assert len(made) == 1
