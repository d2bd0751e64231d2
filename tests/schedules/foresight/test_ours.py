"""Our own methods: what each is for, and that their probabilities are what they say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.forecasters import CHOSEN, FORECASTERS, MIXED
from schedules.foresight.forecasters.chosen import Chosen
from schedules.foresight.forecasters.daily import Daily
from schedules.foresight.forecasters.hazards import BINS, LOWS, at_risk, bins_of
from schedules.foresight.forecasters.keep_alive import KeepAlive
from schedules.foresight.forecasters.renewal import Renewal
from schedules.foresight.forecasters.timer import Timer
from schedules.foresight.forecasters.trial import Trial, held_cost
from schedules.foresight.past import MINUTE_S, Past
from schedules.traces.trace import Trace
from tests.schedules.foresight.pasts import DAY_MIN, bursty, past, past_of_trace

_QUARTER_S = 900.0
_CALIBRATED = ("renewal", "mixed", "chosen")


def test_waits_are_at_risk_in_each_minute_that_they_lasted() -> None:
    waits = np.array([1, 2, 5, 5, 40])
    risk = at_risk(np.zeros(5, np.int64), 1, waits)[0]
    assert risk.sum() == waits.sum()
    widths = np.diff(LOWS)
    lasted = np.array([[(minute <= wait) for minute in range(1, 48)] for wait in waits]).sum(axis=0)
    by_bin = np.bincount(bins_of(np.arange(1, 48)), lasted, BINS)
    np.testing.assert_array_equal(risk, by_bin)
    assert widths.min() >= 1


def test_a_model_is_called_again_soon_after_a_call_and_ever_less_after_that() -> None:
    known = past_of_trace(bursty(8.0, 60, 0.05, 48.0, 5), 48.0 * 3600.0)
    called = np.flatnonzero(known.calls.latest >= 0)
    recent = called[np.argsort(known.last_s[called])]
    probability = Renewal().forecast(known, _QUARTER_S).probability
    assert probability[recent[-8:]].mean() > 2.0 * probability[recent[:8]].mean()


def test_a_timer_shows_in_its_minute_by_the_wait_and_by_the_clock() -> None:
    known = past({"hourly": [60.0 * i + 7.3 for i in range(40)], "other": [3.0, 900.0]}, 60.0 * 40 + 2)
    for method in (Renewal(), Timer()):
        by_then = method.forecast(known, _QUARTER_S).by_then[0]
        assert by_then[4] < 0.15, method.name
        assert by_then[5] > 0.7, method.name


def test_by_the_clock_calls_between_do_not_matter() -> None:
    hourly = [60.0 * i + 7.3 for i in range(40)]
    known = past({"a": [*hourly, *(hour + 31.0 + (i * 7) % 20 for i, hour in enumerate(hourly))]}, 60.0 * 40 + 2)
    assert Timer().forecast(known, _QUARTER_S).by_then[0, 5] > 0.7


def test_calls_at_random_have_no_period() -> None:
    trace = bursty(1.0, 20, 0.02, 48.0, 2)
    known = past_of_trace(trace, 48.0 * 3600.0)
    probability = Timer().forecast(known, _QUARTER_S).by_then
    hazards = np.diff(-np.log(1.0 - probability), axis=1)
    assert (np.ptp(hazards, axis=1) < 1e-9).mean() > 0.8


def test_one_call_a_day_is_expected_at_its_time() -> None:
    known = past({"a": [DAY_MIN * day + 600.5 for day in range(6)]}, DAY_MIN * 6 + 595)
    assert Timer().forecast(known, _QUARTER_S).probability[0] > 0.7
    early = known.before((DAY_MIN * 6 + 300) * MINUTE_S)
    assert Timer().forecast(early, _QUARTER_S).probability[0] < 0.1


def test_new_models_have_what_others_teach() -> None:
    """One call of a model nobody knows: where models are called in pairs the second is likely, where they are called once
    an hour it is not."""
    pairs = {f"m{i}": [t + d for t in range(i, 3000, 300) for d in (0.0, 2.0)] for i in range(20)}
    hours = {f"m{i}": [float(t) for t in range(i * 3, 3000, 60)] for i in range(20)}
    paired, hourly = (
        Renewal().forecast(past({**others, "new": [2999.5]}, 3000), 180.0).probability[-1] for others in (pairs, hours)
    )
    assert paired > 0.4
    assert hourly < 0.1


def test_busy_hours_are_busy_the_next_day_too() -> None:
    at_min = [DAY_MIN * day + 600 + 9.0 * i for day in range(4) for i in range(20)]
    known = past({"a": at_min, "b": [1.0]}, DAY_MIN * 4 + 615)
    busy = Daily().forecast(known, _QUARTER_S).probability[0]
    quiet = Daily().forecast(known.before((DAY_MIN * 4 + 200) * MINUTE_S), _QUARTER_S).probability[0]
    assert busy > 0.35
    assert quiet < 0.1


def test_expected_requests_are_as_many_as_come() -> None:
    trace = bursty(4.0, 50, 0.1, 30.0, 8)
    whole = past_of_trace(trace, trace.duration_s)
    for name in ("renewal", "mixed"):
        said = came = 0.0
        for now in range(14 * 60, 29 * 60, 15):
            said += float(FORECASTERS[name].forecast(whole.before(now * MINUTE_S), _QUARTER_S).total.sum())
            came += float(whole.counts[:, now : now + 15].sum())
        assert said == pytest.approx(came, rel=0.35), name


@pytest.mark.parametrize("name", _CALIBRATED)
def test_minutes_with_calls_are_as_many_as_said_though_calls_come_together(name: str) -> None:
    trace = bursty(8.0, 50, 0.1, 30.0, 8)
    whole = past_of_trace(trace, trace.duration_s)
    busy = came = expected = 0.0
    for now in range(14 * 60, 29 * 60, 30):
        forecast = FORECASTERS[name].forecast(whole.before(now * MINUTE_S), _QUARTER_S)
        busy += float(forecast.busy.sum())
        expected += float(forecast.total.sum())
        came += float((whole.counts[:, now : now + 15] > 0).sum())
    assert busy == pytest.approx(came, rel=0.3)
    assert expected > 2.0 * busy


@pytest.fixture(scope="module", params=[2.0, 8.0], ids=["cv2", "cv8"])
def tried_on(request: pytest.FixtureRequest) -> Callable[[Forecaster], Mapping[int, tuple[Reals, Reals]]]:
    """By minutes ahead: what a method says, and what comes."""
    trace: Trace = bursty(request.param, 60, 0.08, 30.0, 11)
    whole = past_of_trace(trace, trace.duration_s)
    nows = range(12 * 60, 29 * 60 + 30, 30)

    def on(method: Forecaster) -> Mapping[int, tuple[Reals, Reals]]:
        said = [method.forecast(whole.before(now * MINUTE_S), _QUARTER_S).by_then for now in nows]
        return {
            minutes: (
                np.concatenate([by_then[:, minutes - 1] for by_then in said]),
                np.concatenate([whole.counts[:, now : now + minutes].any(axis=1) for now in nows]).astype(np.float64),
            )
            for minutes in (5, 15)
        }

    return on


def _miscalibration(said: Reals, came: Reals) -> float:
    """How far tenths of the forecasts are off in the mean, in order of what they said."""
    order = np.array_split(np.argsort(said, kind="stable"), 10)
    return float(np.mean([abs(said[tenth].mean() - came[tenth].mean()) for tenth in order]))


@pytest.mark.parametrize("name", _CALIBRATED)
def test_what_is_said_to_be_likely_is_as_frequent_as_that(
    name: str, tried_on: Callable[[Forecaster], Mapping[int, tuple[Reals, Reals]]]
) -> None:
    for said, came in tried_on(FORECASTERS[name]).values():
        assert _miscalibration(said, came) < 0.04
        usual = came.mean()
        assert np.mean((said - came) ** 2) < 0.94 * usual * (1.0 - usual)


def test_a_method_that_only_says_yes_and_no_is_not_calibrated(
    tried_on: Callable[[Forecaster], Mapping[int, tuple[Reals, Reals]]],
) -> None:
    """What the bounds above are worth: keep-alive does not keep within them."""
    said, came = tried_on(KeepAlive())[15]
    assert _miscalibration(said, came) > 0.04
    assert np.mean((said - came) ** 2) > 0.94 * came.mean() * (1.0 - came.mean())


@pytest.mark.parametrize("name", _CALIBRATED)
def test_bounds_hold_four_times_in_five_at_least(name: str) -> None:
    trace = bursty(2.0, 40, 0.3, 20.0, 4)
    whole = past_of_trace(trace, trace.duration_s)
    inside, lower = [], []
    for now in range(8 * 60, 19 * 60, 30):
        forecast = FORECASTERS[name].forecast(whole.before(now * MINUTE_S), _QUARTER_S)
        came = whole.counts[:, now : now + 15].sum(axis=1)
        busy = forecast.total > 2.0
        inside.append(((came >= forecast.low) & (came <= forecast.high))[busy])
        lower.append((forecast.high < 20.0 * np.maximum(forecast.total, 1.0))[busy])
    assert 0.72 < np.concatenate(inside).mean() < 0.97
    assert np.concatenate(lower).all()


def _two_kinds() -> Past:
    """Twelve timers between bursts, for a day and a half."""
    trace = bursty(8.0, 24, 0.05, 36.0, 9)
    until_s = 36.0 * 3600.0
    timers = past({f"timer-{i}": [30.0 * k + i for k in range(72)] for i in range(12)}, until_s / MINUTE_S)
    bursts = past_of_trace(trace, until_s)
    return Past(
        (*timers.models, *bursts.models),
        np.concatenate([timers.counts, bursts.counts]),
        0.0,
        until_s,
        np.concatenate([timers.last_s, bursts.last_s]),
    )


def test_the_method_that_was_cheapest_for_a_model_is_its_own() -> None:
    known = _two_kinds()
    chosen = Chosen(MIXED, (KeepAlive(), Timer(least_gain=1e9)), least_gain=0.5, gain_share=0.0)
    only = Chosen(MIXED, (KeepAlive(),), least_gain=1e9)
    methods = chosen.forecast(known, _QUARTER_S).methods
    assert len(set(methods)) > 1
    assert set(only.forecast(known, _QUARTER_S).methods) == {"mixed"}
    tried = Trial().of(known, (Timer(), KeepAlive()), 15)
    assert (tried.cost.sum(axis=1)[0, :12] < tried.cost.sum(axis=1)[1, :12]).all()


def test_the_mixture_is_nearly_as_good_as_the_best_for_each_kind() -> None:
    known = _two_kinds()
    tried = Trial().of(known, MIXED.methods, 15)
    cost, mixed = tried.cost.sum(axis=1), MIXED.would_have_cost(tried)
    for kind in (slice(0, 12), slice(12, None)):
        assert mixed[kind].sum() < 1.15 * cost[:, kind].sum(axis=1).min()
    assert mixed.sum() < cost.sum(axis=1).min()


def test_what_was_found_before_changes_no_answer() -> None:
    known = _two_kinds()
    asked, fresh = (Chosen(MIXED.__class__(MIXED.methods, trial=Trial()), CHOSEN.others) for _ in range(2))
    for hours in (30, 33, 35.2, 34, 36):
        then = known.before(hours * 3600.0)
        once = asked.forecast(then, _QUARTER_S)
    again = fresh.forecast(known.before(36 * 3600.0), _QUARTER_S)
    np.testing.assert_array_equal(once.by_then, again.by_then)
    assert once.methods == again.methods


def test_a_trial_is_done_once_for_each_half_hour_and_for_what_is_new_in_it() -> None:
    asked: list[float] = []

    @dataclass(frozen=True)
    class Asked:
        name: str = "asked"

        def forecast(self, past: Past, horizon_s: float) -> Forecast:
            asked.append(past.until_s / MINUTE_S)
            return KeepAlive().forecast(past, horizon_s)

    trial, at_min = Trial(times=3), [float(t) for t in range(0, 600, 7)]
    for minutes in (405, 410, 420.5, 434, 436, 500):
        trial.of(past({"a": at_min, "b": [2.0]}, minutes), (Asked(),), 15)
    assert asked == [330.0, 360.0, 390.0, 420.0, 450.0, 480.0]


def test_a_trial_looks_at_times_on_the_clock_that_are_over() -> None:
    known = _two_kinds()
    trial = Trial(every_min=30, times=4)
    tried = trial.of(known.before(20 * 3600.0 + 14 * 60.0), (KeepAlive(),), 15)
    expected = np.stack(
        [known.counts[:, now : now + 15].any(axis=1) for now in (18 * 60, 18 * 60 + 30, 19 * 60, 19 * 60 + 30)]
    )
    assert tried.times == 4
    np.testing.assert_array_equal(tried.came, expected)


def test_a_past_too_short_to_be_tried_has_the_mixture() -> None:
    assert CHOSEN.forecast(past({"a": [1.0], "b": []}, 20), _QUARTER_S).methods == ("mixed", "mixed")


def test_the_cost_of_a_probability_is_least_for_the_true_one() -> None:
    """Three times in ten; and it is the mean over prices, as many in each octave, of holding above them and missing below."""
    said = np.linspace(0.01, 0.99, 99)
    cost = 0.3 * held_cost(said, np.ones(99)) + 0.7 * held_cost(said, np.zeros(99))
    assert said[np.argmin(cost)] == pytest.approx(0.3)
    prices = np.exp(np.linspace(np.log(1e-4), 0.0, 200_001))
    for probability, came in ((0.3, 1.0), (0.3, 0.0), (0.8, 1.0)):
        paid = np.where(prices < probability, prices, came)
        mean = paid.mean() * -np.log(1e-4)
        assert held_cost(np.array([probability]), np.array([came]))[0] == pytest.approx(mean, abs=1e-3)
