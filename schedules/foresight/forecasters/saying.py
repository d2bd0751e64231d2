"""What a method found, as a forecast: with bounds, and within what probabilities can be."""

import numpy as np
from numpy.typing import NDArray

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.past import MINUTE_S, Past

_LOOK_BACK = 96
_Z_LOW, _Z_HIGH = 0.1, 0.9


def minutes_ahead(horizon_s: float) -> int:
    """Whole minutes, at least one."""
    return max(1, round(horizon_s / MINUTE_S))


def by_hazard(past: Past, hazard: Reals, per_minute: Reals, method: str) -> Forecast:
    """Each minute has calls with the probability `hazard[i, k]`, whatever the others of the horizon had; `per_minute[i]`
    requests then."""
    safe = np.clip(hazard, 0.0, 1.0)
    return said(past, safe * per_minute[:, None], 1.0 - survival(safe), method, safe)


def survival(hazard: Reals) -> Reals:
    """The probability of no calls by the end of each minute."""
    left: Reals = np.cumprod(1.0 - hazard, axis=1, dtype=np.float64)
    return left


def said(past: Past, expected: Reals, by_then: Reals, method: str, alone: Reals | None = None) -> Forecast:
    """The forecast, with bounds by how much differed the horizons before that had any calls."""
    expected = np.maximum(expected, 0.0)
    by_then = np.clip(np.maximum.accumulate(by_then, axis=1), 0.0, 1.0)
    low, high = _bounds(past, expected.sum(axis=1), by_then[:, -1], expected.shape[1])
    methods = (method,) * len(past.models)
    return Forecast(past.models, past.until_s, expected, by_then, low, high, methods, alone)


def _bounds(past: Past, total: Reals, probability: Reals, minutes: int) -> tuple[Reals, Reals]:
    """None with the chance of none; else one and a gamma number more, of which mean and spread are known."""
    more = np.maximum(total / np.maximum(probability, 1e-12) - 1.0, 0.0)
    spread = _dispersion(past, minutes)
    none = 1.0 - probability
    low, high = (
        np.where(
            none >= chance, 0.0, 1.0 + _gamma_quantile(more, spread, (chance - none) / np.maximum(probability, 1e-12))
        )
        for chance in (_Z_LOW, _Z_HIGH)
    )
    return np.floor(low), np.ceil(np.maximum(low, high))


def _dispersion(past: Past, minutes: int) -> Reals:
    """Variance over mean of the requests behind the first one, in horizons of the past that had any; drawn to that of all."""
    windows = min(past.minutes // minutes, _LOOK_BACK)
    if not windows:
        return np.ones(len(past.models))
    end = past.minutes
    each = past.counts[:, end - windows * minutes : end].reshape(len(past.models), windows, minutes).sum(axis=2)
    some = each > 0
    many = some.sum(axis=1)
    more = np.where(some, each - 1.0, 0.0)
    mean = more.sum(axis=1) / np.maximum(many, 1)
    square = (np.where(some, more - mean[:, None], 0.0) ** 2).sum(axis=1)
    pooled = (square.sum() + 1.0) / ((mean * many).sum() + 1.0)
    own = (square + 3.0 * pooled * np.maximum(mean, 0.1)) / ((np.maximum(many - 1, 0) + 3.0) * np.maximum(mean, 0.1))
    dispersion: Reals = np.maximum(own, 1.0)
    return dispersion


def _gamma_quantile(mean: Reals, dispersion: Reals, chance: Reals) -> Reals:
    """By Wilson and Hilferty: the cube root of a gamma number is nearly normal."""
    ninth = dispersion / (9.0 * np.maximum(mean, 1e-9))
    root = 1.0 - ninth + _normal_quantile(chance) * np.sqrt(ninth)
    quantile: Reals = mean * np.maximum(root, 0.0) ** 3
    return quantile


def _normal_quantile(chance: NDArray[np.float64]) -> Reals:
    """Near enough (4.5e-4) for a bound: Abramowitz and Stegun 26.2.23."""
    tail = np.clip(np.minimum(chance, 1.0 - chance), 1e-6, 0.5)
    t = np.sqrt(-2.0 * np.log(tail))
    z = t - (2.515517 + 0.802853 * t + 0.010328 * t**2) / (1.0 + 1.432788 * t + 0.189269 * t**2 + 0.001308 * t**3)
    signed: Reals = np.where(chance < 0.5, -z, z)
    return signed
