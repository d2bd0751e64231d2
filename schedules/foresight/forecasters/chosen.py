"""Whatever would have been the cheapest, for each model of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast, Forecaster
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.forecasters.trial import Trial, Tried
from schedules.foresight.past import Past

MOST_TRIED_MIN = 15


@dataclass(frozen=True)
class Chosen:
    """By the cost of what each of the `methods` would have forecast for the hours before. A model has the method that is the
    cheapest for all models together, unless another is cheaper for itself by `least_gain`, as sure as the times it was
    called then make it: few calls choose nothing, and a choice does not change for little. The first method is what is
    taken while nothing could be tried."""

    methods: tuple[Forecaster, ...]
    least_gain: float = 1.0
    gain_share: float = 0.1
    trial: Trial = field(default_factory=Trial)

    @property
    def name(self) -> str:
        return "chosen"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        tried = self.trial.of(past, self.methods, min(minutes_ahead(horizon_s), MOST_TRIED_MIN))
        return taken(past, horizon_s, self.methods, self._choice(tried))

    def _choice(self, tried: Tried) -> Places:
        """The place of its method, by model."""
        models = tried.cost.shape[1]
        if not tried.times:
            return np.zeros(models, np.int64)
        pooled = int(np.argmin(tried.cost.sum(axis=1)))
        usual = tried.cost[pooled]
        best = np.argmin(tried.cost, axis=0)
        gain = usual - tried.cost[best, np.arange(models)]
        sure = gain > self.least_gain + self.gain_share * usual
        return np.where(sure, best, pooled)


@dataclass(frozen=True)
class Mixed:
    """Of all `methods` a mean, weighted for each model by the exponential of what it would have cost less than others: by its
    own cost, and by that for all models together `pool_times` forecasts strong. It hardly depends on which one is ahead."""

    methods: tuple[Forecaster, ...]
    pool_times: float = 8.0
    trial: Trial = field(default_factory=Trial)

    @property
    def name(self) -> str:
        return "mixed"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        tried = self.trial.of(past, self.methods, min(minutes_ahead(horizon_s), MOST_TRIED_MIN))
        weights = self._weights(tried)
        each = [method.forecast(past, horizon_s) for method in self.methods]
        expected = _weighted(weights, [one.expected for one in each])
        by_then = _weighted(weights, [one.by_then for one in each])
        return said(past, expected, by_then, self.name)

    def _weights(self, tried: Tried) -> Reals:
        """By method and model; they add up to 1."""
        usual = tried.cost.sum(axis=1) / max(tried.called.sum(), 1.0) if tried.times else np.zeros(len(self.methods))
        cost = tried.cost + self.pool_times * usual[:, None]
        weights = np.exp(-(cost - cost.min(axis=0)))
        shares: Reals = weights / weights.sum(axis=0)
        return shares


def taken(past: Past, horizon_s: float, methods: Sequence[Forecaster], choice: Places) -> Forecast:
    """Of each model what its method says."""
    each = {place: methods[place].forecast(past, horizon_s) for place in np.unique(choice).tolist()}
    first = next(iter(each.values()), None)
    if first is None:
        return methods[0].forecast(past, horizon_s)
    expected, by_then, low, high = (np.array(getattr(first, name)) for name in ("expected", "by_then", "low", "high"))
    for place, forecast in each.items():
        mine = choice == place
        expected[mine], by_then[mine] = forecast.expected[mine], forecast.by_then[mine]
        low[mine], high[mine] = forecast.low[mine], forecast.high[mine]
    names = tuple(methods[place].name for place in choice.tolist())
    return Forecast(past.models, past.until_s, expected, by_then, low, high, names)


def _weighted(weights: Reals, each: Sequence[Reals]) -> Reals:
    total: Reals = sum(
        (weight[:, None] * values for weight, values in zip(weights, each, strict=True)), np.zeros(each[0].shape)
    )
    return total
