"""Nixtla's models for intermittent demand behind our interface, for whoever has installed them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from flows.errors import Unclear
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import Past

_ARGUMENTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {"CrostonSBA": {}, "ADIDA": {}, "IMAPA": {}, "TSB": {"alpha_d": 0.1, "alpha_p": 0.1}}
)


@dataclass(frozen=True)
class StatsForecast:
    """One of them, on requests in buckets of `bucket_min` minutes that end with the past, `most_buckets` at most. They say
    how many are to come in each, the same for all; when is taken to be by chance (Poisson). Each model takes one fit a
    forecast, some tenths of a millisecond. Unclear, in a sentence, where the extra is not installed."""

    model: str
    bucket_min: int = 5
    most_buckets: int = 2 * 288

    @property
    def name(self) -> str:
        return f"statsforecast-{self.model.lower()}"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        fitted = _fitted(self.model)
        buckets = min(past.minutes // self.bucket_min, self.most_buckets)
        begin = past.minutes - buckets * self.bucket_min
        shape = (len(past.models), buckets, self.bucket_min)
        demand = past.counts[:, begin:].reshape(shape).sum(axis=2, dtype=np.float64)
        called = demand.any(axis=1)
        per_bucket = np.zeros(len(past.models))
        for row in np.flatnonzero(called).tolist():
            per_bucket[row] = fitted.forecast(y=demand[row], h=1)["mean"][0]
        per_minute = np.maximum(np.nan_to_num(per_bucket), 0.0) / self.bucket_min
        by_then = 1.0 - np.exp(-per_minute[:, None] * np.arange(1, minutes + 1))
        return said(past, np.repeat(per_minute[:, None], minutes, axis=1), by_then, self.name)


def _fitted(model: str) -> Any:
    try:
        from statsforecast import models
    except ImportError as error:
        raise Unclear(f"{model} needs the package statsforecast: pip install 'firsttoken[forecast]'") from error
    return getattr(models, model)(**_ARGUMENTS[model])


INTERMITTENT: Mapping[str, StatsForecast] = MappingProxyType(
    {method.name: method for method in (StatsForecast(model) for model in _ARGUMENTS)}
)
"""By the names that people call them."""
