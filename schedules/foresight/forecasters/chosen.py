"""Whatever would have been the cheapest, for each model of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.forecasters.trial import Trial, Tried, held_cost
from schedules.foresight.past import Past

MOST_TRIED_MIN = 15


@dataclass(frozen=True)
class Mixed:
    """Of all `methods` a mean, weighted for each model by the exponential of what each would have cost less than others: by
    its own cost, and by that of a call of any model `pool_calls` strong. It is hardly worse than the best of them for
    anybody, and better where none of them is right alone."""

    methods: tuple[Forecaster, ...]
    pool_calls: float = 8.0
    trial: Trial = field(default_factory=Trial)

    @property
    def name(self) -> str:
        return "mixed"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        tried = self.trial.of(past, self.methods, min(minutes_ahead(horizon_s), MOST_TRIED_MIN))
        each = [method.forecast(past, horizon_s) for method in self.methods]
        return self.of(past, each, self.weights(tried))

    def weights(self, tried: Tried) -> Reals:
        """By method and model; they add up to 1."""
        return self._weights(tried.cost.sum(axis=1), float(tried.came.sum()))

    def of(self, past: Past, each: Sequence[Forecast], weights: Reals) -> Forecast:
        """The mean of what each says."""
        expected = _weighted(weights, [one.expected for one in each])
        by_then = _weighted(weights, [one.by_then for one in each])
        alone = np.minimum(_weighted(weights, [one.busy for one in each]), 1.0)
        return said(past, expected, by_then, self.name, alone)

    def would_have_cost(self, tried: Tried) -> Reals:
        """By model, each time weighted by what was known before."""
        cost = np.zeros(tried.cost.shape[::2])
        total = np.zeros(tried.cost.shape[2])
        for time in range(tried.times):
            weights = self._weights(cost, float(tried.came[:time].sum()))
            total += held_cost((weights * tried.probability[:, time]).sum(axis=0), tried.came[time])
            cost += tried.cost[:, time]
        return total

    def _weights(self, cost: Reals, called: float) -> Reals:
        usual = cost.sum(axis=1, keepdims=True) / max(called, 1.0)
        drawn = cost + self.pool_calls * usual
        weights = np.exp(drawn.min(axis=0) - drawn) if drawn.size else drawn
        shares: Reals = weights / weights.sum(axis=0)
        return shares


@dataclass(frozen=True)
class Chosen:
    """By the cost of what each method would have forecast for the hours before: `mixed`, those that it is made of, and
    `others`. A model has the method that is the cheapest for all models together, unless another one is cheaper for itself
    by `gain_share`, and by `least_gain` more: so few calls choose nothing, and little changes no choice. While nothing
    could be tried it is the mixture."""

    mixed: Mixed
    others: tuple[Forecaster, ...]
    least_gain: float = 3.0
    gain_share: float = 0.1

    @property
    def name(self) -> str:
        return "chosen"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        methods = (*self.mixed.methods, *self.others)
        tried = self._tried(past, horizon_s)
        inside = self._inside(tried)
        choice = self._choice(self._cost(tried))
        each = {place: methods[place - 1].forecast(past, horizon_s) for place in np.unique(choice).tolist() if place}
        parts = [
            each.get(place + 1) or method.forecast(past, horizon_s) for place, method in enumerate(self.mixed.methods)
        ]
        each[0] = self.mixed.of(past, parts, self.mixed.weights(inside))
        return _taken(each, choice)

    def costs(self, past: Past, horizon_s: float) -> Mapping[str, Reals]:
        """What the choice rests on: by method what it would have cost for each model."""
        names = (method.name for method in (self.mixed, *self.mixed.methods, *self.others))
        return dict(zip(names, self._cost(self._tried(past, horizon_s)), strict=True))

    def _tried(self, past: Past, horizon_s: float) -> Tried:
        methods = (*self.mixed.methods, *self.others)
        return self.mixed.trial.of(past, methods, min(minutes_ahead(horizon_s), MOST_TRIED_MIN))

    def _inside(self, tried: Tried) -> Tried:
        """Only those that the mixture is made of."""
        return Tried(tried.probability[: len(self.mixed.methods)], tried.came)

    def _cost(self, tried: Tried) -> Reals:
        return np.stack([self.mixed.would_have_cost(self._inside(tried)), *tried.cost.sum(axis=1)])

    def _choice(self, cost: Reals) -> Places:
        """The place of its method, by model."""
        pooled = int(np.argmin(cost.sum(axis=1)))
        best = np.argmin(cost, axis=0)
        gain = cost[pooled] - np.take_along_axis(cost, best[None, :], axis=0)[0]
        return np.where(gain > self.least_gain + self.gain_share * cost[pooled], best, pooled)


def _weighted(weights: Reals, each: Sequence[Reals]) -> Reals:
    total = np.zeros(each[0].shape)
    for share, one in zip(weights, each, strict=True):
        total += share[:, None] * one
    return total


def _taken(each: Mapping[int, Forecast], choice: Places) -> Forecast:
    """Of each model what its method says."""
    first = each[0]
    expected, by_then, low, high = (column.copy() for column in (first.expected, first.by_then, first.low, first.high))
    alone, methods = first.busy.copy(), list(first.methods)
    for place, forecast in each.items():
        mine = np.flatnonzero(choice == place)
        expected[mine], by_then[mine] = forecast.expected[mine], forecast.by_then[mine]
        low[mine], high[mine], alone[mine] = forecast.low[mine], forecast.high[mine], forecast.busy[mine]
        for row in mine.tolist():
            methods[row] = forecast.methods[row]
    return Forecast(first.models, first.at_s, expected, by_then, low, high, tuple(methods), alone)
