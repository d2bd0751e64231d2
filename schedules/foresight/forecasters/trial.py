"""How methods would have done: each forecasts the past from times in it, by what was known then."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.past import MINUTE_S, NEVER_S, Past

LEAST, MOST = 0.002, 0.998


def held_cost(probability: Reals, came: Reals) -> Reals:
    """Of holding a model whenever its probability is above a price, against missing calls: the mean over all prices, as many
    in each octave. A price is what holding costs over what a cold start does. Held while it is the dearer of both costs
    the price, up to the probability; missed at the prices above it costs the logarithm of what is left."""
    safe = np.clip(probability, LEAST, MOST)
    cost: Reals = safe - came * np.log(safe)
    return cost


@dataclass(frozen=True)
class Tried:
    """`cost[m, i]` of the method `m` for the model `i`, over `times` forecasts; `called[i]` of them came true."""

    cost: Reals
    called: Reals
    times: int


@dataclass(frozen=True)
class Trial:
    """Methods forecast from up to `times` times, `every_min` apart, that end with the last whole `review_min` of the past, so
    that it is done anew once in that time only. What it found is remembered; it is the same whether or not."""

    every_min: int = 30
    times: int = 16
    review_min: int = 60
    least_known_min: int = 30
    _found: dict[bytes, Tried] = field(default_factory=dict, compare=False, repr=False)

    def of(self, past: Past, methods: Sequence[Forecaster], minutes: int) -> Tried:
        """What they would have cost, forecasting so many minutes."""
        known = self._reviewed(past)
        key = _fingerprint(known, methods, minutes)
        if key not in self._found:
            while len(self._found) >= 4:
                self._found.pop(next(iter(self._found)))
            self._found[key] = self._tried(known, methods, minutes)
        return self._found[key]

    def _reviewed(self, past: Past) -> Past:
        """Without the beginning of a review's time, as far as there is enough: a past that moves on stays the same then."""
        step_s = self.review_min * MINUTE_S
        until_s = max(past.until_s // step_s * step_s, past.begin_s)
        begin_s = -(-past.begin_s // step_s) * step_s
        if until_s - begin_s < 4 * step_s:
            begin_s = past.begin_s
        cut = round((begin_s - past.begin_s) / MINUTE_S)
        before = past.before(until_s)
        if not cut:
            return before
        last_s = np.where(before.last_s < begin_s, NEVER_S, before.last_s)
        return replace(before, counts=before.counts[:, cut:], begin_s=begin_s, last_s=last_s)

    def _tried(self, past: Past, methods: Sequence[Forecaster], minutes: int) -> Tried:
        cost, called, times = np.zeros((len(methods), len(past.models))), np.zeros(len(past.models)), 0
        for step in range(self.times):
            now = past.minutes - minutes - step * self.every_min
            if now < self.least_known_min:
                break
            came = (past.counts[:, now : now + minutes].sum(axis=1) > 0).astype(np.float64)
            then = past.before(past.begin_s + now * MINUTE_S)
            for place, method in enumerate(methods):
                cost[place] += held_cost(_probability(method.forecast(then, minutes * MINUTE_S)), came)
            called += came
            times += 1
        return Tried(cost, called, times)


def _probability(forecast: Forecast) -> Reals:
    return forecast.probability


def _fingerprint(past: Past, methods: Sequence[Forecaster], minutes: int) -> bytes:
    """Of all that an answer depends on."""
    calls = past.calls
    digest = blake2b(repr((past.models, past.begin_s, past.until_s, minutes, tuple(methods))).encode())
    for column in (calls.row, calls.minute, calls.count, past.last_s):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.digest()
