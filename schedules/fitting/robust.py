"""What many samples say together, whatever a few of them say: the newest weigh most, and odd ones not at all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.fitting.samples import Sample

HALF_LIFE = 32
"""So many samples later one weighs half as much."""
ODD_MADS = 5.0
"""So many median absolute deviations from the median no sample is for any good reason."""
_TO_DEVIATION = 1.4826
"""A standard deviation in median absolute ones, if samples were drawn from a normal distribution."""
_EXACT = 0.02
"""Samples that lie together as near as that are not told apart: else one of a hundred equal ones would be odd."""


class Summed(NamedTuple):
    """Of the samples that are not outliers: the value wanted, nine of ten samples' bounds, and how many there are."""

    value: float
    low: float
    high: float
    samples: int
    outliers: int

    @property
    def spread(self) -> float:
        """How far apart nine of ten samples lie, as a share of the value."""
        return (self.high - self.low) / self.value if self.value else 0.0


def sum_up(samples: Sequence[Sample], quantile: float = 0.5) -> Summed:
    """The value at a quantile of the samples, which come oldest first. There is at least one."""
    values = np.array([sample.value for sample in samples])
    weights = 0.5 ** (np.arange(len(values))[::-1] / HALF_LIFE)
    odd = _odd(values, weights)
    value, low, high = (_at(values[~odd], weights[~odd], share) for share in (quantile, 0.05, 0.95))
    return Summed(value, low, high, int((~odd).sum()), int(odd.sum()))


def _odd(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """By the logarithm where all are above zero, for a speed is as easily a third as thrice what it should be. What was so
    before a machine was changed is odd by now."""
    scaled = np.log(values) if values.min() > 0.0 else values
    middle = _at(scaled, weights, 0.5)
    apart = np.abs(scaled - middle)
    floor = _EXACT if values.min() > 0.0 else _EXACT * max(abs(middle), 1e-3)
    found: NDArray[np.bool_] = apart > ODD_MADS * max(_TO_DEVIATION * _at(apart, weights, 0.5), floor)
    return found


def _at(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    """Between the two values that are nearest to the share of all weight."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    middles = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(share, middles, values))
