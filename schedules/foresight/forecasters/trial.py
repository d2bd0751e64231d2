"""How methods would have done: each forecasts the past from times in it, by what was known then."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecaster
from schedules.foresight.past import DAY_S, MINUTE_S, NEVER_S, Past

LEAST, MOST = 0.002, 0.998
_T = TypeVar("_T")


def held_cost(probability: Reals, came: Reals) -> Reals:
    """Of holding a model whenever its probability is above a price, against missing calls. The price is what holding costs
    over what a cold start does. Below the probability the model is held, which costs the price; above it a call costs 1:
    over all prices, as many in each octave, that is p and -ln p for each call that came."""
    safe = np.clip(probability, LEAST, MOST)
    cost: Reals = safe - came * np.log(safe)
    return cost


@dataclass(frozen=True, eq=False)
class Tried:
    """`cost[m, k, i]` of the method `m` for the model `i` by its forecast of `probability[m, k, i]`, the oldest first, and
    `came[k, i]`: 1 if there were calls, else 0."""

    probability: Reals
    came: Reals

    @property
    def times(self) -> int:
        """How often they forecast."""
        return len(self.came)

    @cached_property
    def cost(self) -> Reals:
        """By method, time and model."""
        return held_cost(self.probability, self.came)


@dataclass(frozen=True)
class Trial:
    """Methods forecast from the last `times` times on the clock, `every_min` apart, that are followed by as many minutes as
    they forecast; from fewer if the past has more than `most_cells` minutes of models in all times together, but at least
    `least_times`. It changes with each such time, not in between.

    What was found for a time is remembered by a digest of all that was known then: the answer is the same whether or not.
    """

    every_min: int = 30
    times: int = 48
    least_times: int = 8
    most_cells: int = 200_000_000
    least_known_min: int = 30
    _found: dict[bytes, Tried] = field(default_factory=dict, compare=False, repr=False)
    _columns: dict[bytes, Reals] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[type, tuple[int, ...]]:
        """What was found stays where it was found."""
        return type(self), (self.every_min, self.times, self.least_times, self.most_cells, self.least_known_min)

    def of(self, past: Past, methods: Sequence[Forecaster], minutes: int) -> Tried:
        """What they would have said of the next so many minutes, and what came."""
        known = _cropped(past)
        nows = self._nows(known, minutes)
        known = _by_minutes(known, nows[-1] + minutes if nows else 0)
        key = _fingerprint(known, methods, minutes)
        if key not in self._found:
            tried = self._tried(known, methods, minutes, nows)
            _keep(self._found, key, tried, 4)
        return self._found[key]

    def _nows(self, past: Past, minutes: int) -> list[int]:
        """The minutes of the past from which they forecast, the oldest first."""
        whole = int((past.until_s - past.begin_s) // MINUTE_S)
        offset = -round(past.begin_s / MINUTE_S) % self.every_min
        last = (whole - minutes - offset) // self.every_min * self.every_min + offset
        affordable = max(self.least_times, self.most_cells // max(len(past.models) * past.minutes, 1))
        first = max(last - (min(self.times, affordable) - 1) * self.every_min, self.least_known_min)
        return list(range(last, first - 1, -self.every_min))[::-1]

    def _tried(self, past: Past, methods: Sequence[Forecaster], minutes: int, nows: Sequence[int]) -> Tried:
        probability = np.zeros((len(methods), len(nows), len(past.models)))
        came = np.zeros(probability.shape[1:])
        for time, now in enumerate(nows):
            came[time] = past.counts[:, now : now + minutes].any(axis=1)
            probability[:, time] = self._column(past.before(past.begin_s + now * MINUTE_S), methods, minutes)
        return Tried(probability, came)

    def _column(self, past: Past, methods: Sequence[Forecaster], minutes: int) -> Reals:
        key = _fingerprint(past, methods, minutes)
        if key not in self._columns:
            found = np.stack([method.forecast(past, minutes * MINUTE_S).probability for method in methods])
            _keep(self._columns, key, found, 4 * self.times)
        return self._columns[key]


def _keep(found: dict[bytes, _T], key: bytes, value: _T, most: int) -> None:
    """What was found first goes first."""
    while len(found) >= most:
        found.pop(next(iter(found)), None)
    found[key] = value


def _by_minutes(past: Past, minutes: int) -> Past:
    """The first so many, by what their counts say alone: each latest call is at its minute's end, however exactly it is
    known, for of earlier ones that is all there is."""
    known = past.before(past.begin_s + minutes * MINUTE_S)
    latest = known.calls.latest
    at_end = replace(known, last_s=np.where(latest < 0, NEVER_S, known.begin_s + (latest + 1) * MINUTE_S))
    at_end.__dict__["calls"] = known.calls
    return at_end


def _cropped(past: Past) -> Past:
    """From midnight on, if more than two days are left then: a past that moves on with the clock begins anew once a day."""
    begin_s = -(-past.begin_s // DAY_S) * DAY_S
    cut = round((begin_s - past.begin_s) / MINUTE_S)
    if not cut or past.until_s - begin_s < 2 * DAY_S:
        return past
    last_s = np.where(past.last_s < begin_s, NEVER_S, past.last_s)
    return replace(past, counts=past.counts[:, cut:], begin_s=begin_s, last_s=last_s)


def _fingerprint(past: Past, methods: Sequence[Forecaster], minutes: int) -> bytes:
    """Of all that an answer depends on."""
    calls = past.calls
    digest = blake2b(repr((past.models, past.begin_s, past.until_s, minutes, tuple(methods))).encode())
    for column in (calls.row, calls.minute, calls.count):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.digest()
