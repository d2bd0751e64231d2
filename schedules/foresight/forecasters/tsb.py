"""Teunter, Syntetos and Babai (2011), for intermittent demand: the chance that there is any, and how much, smoothed apart."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Places, Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.forecasters.saying import minutes_ahead, said
from schedules.foresight.past import Past


@dataclass(frozen=True)
class Tsb:
    """Over buckets of `bucket_min` minutes that end with the past. Unlike Croston's, the chance falls in each bucket without
    demand, so that what nobody calls any more fades. Smoothing is `chance_share` and `size_share`."""

    bucket_min: int = 5
    chance_share: float = 0.1
    size_share: float = 0.1

    @property
    def name(self) -> str:
        return "tsb"

    def forecast(self, past: Past, horizon_s: float) -> Forecast:
        minutes = minutes_ahead(horizon_s)
        row, age, size = _buckets(past, self.bucket_min)
        buckets = max(1, -(-past.minutes // self.bucket_min))
        fade = 1.0 - self.chance_share
        weights = self.chance_share * fade**age / (1.0 - fade**buckets)
        chance = np.bincount(row, weights, len(past.models))
        sizes = _smoothed(row, size, self.size_share, len(past.models))
        until = np.arange(1, minutes + 1) / self.bucket_min
        by_then = 1.0 - (1.0 - np.clip(chance, 0.0, 1.0))[:, None] ** until
        per_minute = chance * sizes / self.bucket_min
        alone = np.repeat(by_then[:, :1], minutes, axis=1)
        return said(past, np.repeat(per_minute[:, None], minutes, axis=1), by_then, self.name, alone)


def _buckets(past: Past, bucket_min: int) -> tuple[Places, Places, Reals]:
    """Those with demand: of which model, how many buckets ago (falling for a model), and how much."""
    calls = past.calls
    age = (past.minutes - 1 - calls.minute) // bucket_min
    new = np.ones(len(age), np.bool_)
    new[1:] = (np.diff(age) != 0) | (np.diff(calls.row) != 0)
    place = np.cumsum(new) - 1
    size = np.bincount(place, calls.count, int(new.sum())).astype(np.float64)
    return calls.row[new], age[new], size


def _smoothed(row: Places, size: Reals, share: float, models: int) -> Reals:
    """The last of each model's sizes the most."""
    ends = np.searchsorted(row, np.arange(models), side="right")
    weight = (1.0 - share) ** (ends[row] - 1 - np.arange(len(row)))
    total = np.bincount(row, weight, models)
    smoothed: Reals = np.bincount(row, weight * size, models) / np.maximum(total, 1e-300)
    return smoothed
