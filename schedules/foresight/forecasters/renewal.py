"""By the time since the last call: each call begins the wait for the next one anew, as long as such waits were."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.hazards import BINS, at_risk, bins_of, drawn, untaught
from schedules.foresight.forecasters.saying import minutes_ahead, said, survival
from schedules.foresight.past import Past

_LEVELS = 18
_MOST = 1.0 - 1e-9


@dataclass(frozen=True)
class Renewal:
    """The hazard of a call in each minute, given how long ago the last one was, is drawn from all to one: from that of all
    waits of all models, to those that began when their model was called about as often, to the model's own, to the model's
    own of about that length, to those of just that many minutes. At each step what was seen counts against as many
    expected events as its strength says. So new and rare models have what others teach, bursts are waits of a minute or
    two, and a timer shows in its minute.

    How often a model was called is of its last `gaps_looked_at` gaps at the begin of the wait, never of what came later:
    grouping models by all that they did would make each group's rarest too rare.
    """

    gaps_looked_at: int = 32
    model_strength: float = 6.0
    length_strength: float = 20.0
    minute_strength: float = 1.5

    @property
    def name(self) -> str:
        return "renewal"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes, calls, now = minutes_ahead(horizon_s), past.calls, past.next_minute
        age = np.where(calls.latest >= 0, np.maximum(now - 1 - calls.latest, 0), 0)
        by_length = self._hazards(past, age)
        row, gap = calls.gaps
        ahead = self._ahead(by_length, row, gap, age, minutes)
        never = calls.latest < 0
        ahead[never] = _first_calls(calls.earliest, now, minutes)
        again = self._ahead(by_length, row, gap, np.zeros_like(age), minutes)
        surviving = survival(ahead)
        each = _each_minute(ahead, surviving, again)
        active = calls.per_model()
        pooled = calls.count.sum() / max(len(calls.count), 1)
        mean = (calls.per_model(calls.count) + 2.0 * max(pooled, 1.0)) / (active + 2.0)
        return said(past, each * mean[:, None], 1.0 - surviving, self.name, each)

    def _hazards(self, past: Past, age: Places) -> Reals:
        """Of each model as it is now, by length of the wait."""
        calls, models = past.calls, len(past.models)
        row, gap = calls.gaps
        level, level_now = self._levels(past)
        waiting = np.flatnonzero(age > 0)
        rows, lengths = np.concatenate([row, waiting]), np.concatenate([gap, age[waiting]])
        levels = np.concatenate([level, level_now[waiting]])
        risk = at_risk(rows * _LEVELS + levels, models * _LEVELS, lengths).reshape(models, _LEVELS, BINS)
        came = np.bincount(level * BINS + bins_of(gap), minlength=_LEVELS * BINS).reshape(_LEVELS, BINS)
        pool = _pooled(came.astype(np.float64), risk.sum(axis=0))
        own = np.bincount(row * BINS + bins_of(gap), minlength=models * BINS).reshape(models, BINS)
        expected = np.einsum("mlb,lb->mb", risk, pool)
        often = (own.sum(axis=1) + self.model_strength) / (expected.sum(axis=1) + self.model_strength)
        expected *= often[:, None]
        by_length = (own + self.length_strength) / (expected + self.length_strength)
        hazards: Reals = np.minimum(pool[level_now] * often[:, None] * by_length, _MOST)
        return hazards

    def _levels(self, past: Past) -> tuple[Places, Places]:
        """How often a model was called, in octaves: at the begin of each gap, and of the wait that goes on."""
        calls = past.calls
        place = np.arange(len(calls.row)) - calls.begins[calls.row]
        back = np.minimum(place, self.gaps_looked_at)
        since = np.where(place > self.gaps_looked_at, calls.minute[np.arange(len(place)) - back], -1)
        octave = np.log2((calls.minute - since) / (back + 0.5))
        level = np.clip(np.floor(octave + 1.0), 0, _LEVELS - 1).astype(np.int64)
        begins = np.ones(len(place), np.bool_)
        begins[:-1] = calls.row[1:] == calls.row[:-1]
        if len(begins):
            begins[-1] = False
        now = np.full(len(past.models), _LEVELS - 1)
        called = calls.latest >= 0
        now[called] = level[calls.begins[1:][called] - 1]
        return level[begins], now

    def _ahead(self, by_length: Reals, row: Places, gap: Places, age: Places, minutes: int) -> Reals:
        """Hazards of the minutes from now on, by model."""
        lengths = age[:, None] + np.arange(1, minutes + 1)
        prior = np.take_along_axis(by_length, bins_of(lengths), axis=1)
        beyond = np.minimum(gap - age[row], minutes + 1)
        longer = beyond >= 1
        width = minutes + 2
        many = np.bincount(row[longer] * width + beyond[longer], minlength=len(age) * width).reshape(len(age), width)
        risk = np.cumsum(many[:, ::-1], axis=1)[:, ::-1]
        hazards: Reals = np.minimum(drawn(prior, many[:, 1:-1], risk[:, 1:-1], self.minute_strength), _MOST)
        return hazards


def _pooled(came: Reals, risk: Reals) -> Reals:
    """Hazards by level and length: what a level has not seen is as its neighbours', or all others'."""
    everyone = drawn(untaught(), came.sum(axis=0), risk.sum(axis=0), 1.0)
    near = np.array([0.25, 1.0, 0.25])
    beside_came = np.apply_along_axis(np.convolve, 0, came, near, "same")
    beside_risk = np.apply_along_axis(np.convolve, 0, risk, near, "same")
    return drawn(drawn(everyone[None, :], beside_came, beside_risk, 2.0), came, risk, 5.0)


def _first_calls(earliest: Places, now: int, minutes: int) -> Reals:
    """Hazards of models that were never called yet: as it was with those that were, before they were."""
    called = earliest >= 0
    waits = np.where(called, earliest + 1, now)
    bins = bins_of(waits[called])
    came = np.bincount(bins, minlength=BINS).astype(np.float64)
    some = waits > 0
    risk = at_risk(np.zeros(int(some.sum()), np.int64), 1, waits[some])[0]
    return drawn(0.2 * untaught(), came, risk, 1.0)[bins_of(now + np.arange(1, minutes + 1))]


def _each_minute(ahead: Reals, surviving: Reals, again: Reals) -> Reals:
    """The probability of calls in each minute, whatever comes before it in the horizon: the renewal equation."""
    first = ahead * np.concatenate([np.ones((len(ahead), 1)), surviving[:, :-1]], axis=1)
    behind = survival(again)
    next_one = again * np.concatenate([np.ones((len(again), 1)), behind[:, :-1]], axis=1)
    each = first.copy()
    for minute in range(1, each.shape[1]):
        each[:, minute] += np.einsum("mk,mk->m", each[:, :minute], next_one[:, minute - 1 :: -1][:, :minute])
    sums: Reals = np.minimum(each, 1.0)
    return sums
