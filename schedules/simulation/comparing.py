"""How near what was played comes to what was seen: two distributions, and one by one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TERMS = 100
"""Of a series that alternates, and falls so fast that a few would do."""


@dataclass(frozen=True)
class Comparison:
    """Two samples of one quantity, of `seen` and `played` values: how much the played one's mean and quantiles are above the
    seen one's, as a share of that (negative: below), the Kolmogorov-Smirnov distance of the two, and how likely it would be
    at least as large if both were of one distribution."""

    seen: int
    played: int
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    ks: float
    ks_p: float


@dataclass(frozen=True)
class Matched:
    """Values that belong together, pair by pair: the absolute error of the played one as a share of the seen one, in the
    mean, the median and at the 95th percentile, and in the quantity's own unit in the mean."""

    pairs: int
    mean: float
    median: float
    p95: float
    mean_error: float


def compare(seen: ArrayLike, played: ArrayLike) -> Comparison:
    """NaN, which is no value, is left out. ValueError if nothing is left of either, or a statistic of the seen is not above
    zero."""
    one, other = _values(seen), _values(played)
    if not len(one) or not len(other):
        raise ValueError("there is nothing to compare")
    mean, median, p90, p95, p99 = map(_relative, _figures(other), _figures(one))
    return Comparison(len(one), len(other), mean, median, p90, p95, p99, *ks(one, other))


def match(seen: ArrayLike, played: ArrayLike) -> Matched:
    """Pairs of which one is NaN are left out. ValueError if there are no others, or something was seen that is not above
    zero."""
    one, other = np.asarray(seen, np.float64), np.asarray(played, np.float64)
    both = ~(np.isnan(one) | np.isnan(other))
    one, other = one[both], other[both]
    if not len(one):
        raise ValueError("there is nothing to compare")
    if one.min() <= 0.0:
        raise ValueError("an error cannot be a share of nothing")
    errors = np.abs(other - one)
    shares = errors / one
    return Matched(
        len(one), float(shares.mean()), float(np.median(shares)), float(np.percentile(shares, 95)), float(errors.mean())
    )


def ks(one: ArrayLike, other: ArrayLike) -> tuple[float, float]:
    """The largest distance of the two samples' distribution functions, and its p-value: Kolmogorov's limit with Stephens'
    correction for few (Numerical Recipes, 14.3), good from about four values each on. ValueError without any."""
    a, b = np.sort(_values(one)), np.sort(_values(other))
    if not len(a) or not len(b):
        raise ValueError("there is nothing to compare")
    at = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(each, at, side="right") / len(each) for each in (a, b))
    distance = float(np.abs(below_a - below_b).max())
    root = float(np.sqrt(len(a) * len(b) / (len(a) + len(b))))
    return distance, _kolmogorov((root + 0.12 + 0.11 / root) * distance)


def _kolmogorov(scaled: float) -> float:
    """How likely the limit of the scaled distance is at least that."""
    if scaled < 0.2:
        return 1.0  # but for 1e-12, and the series does not come to an end
    terms = np.arange(1, _TERMS + 1)
    signs = np.where(terms % 2, 1.0, -1.0)
    return float(np.clip(2.0 * np.sum(signs * np.exp(-2.0 * terms**2 * scaled**2)), 0.0, 1.0))


def _figures(values: NDArray[np.float64]) -> list[float]:
    return [float(values.mean()), *np.percentile(values, (50, 90, 95, 99)).tolist()]


def _relative(value: float, against: float) -> float:
    if against <= 0.0:
        raise ValueError("an error cannot be a share of nothing")
    return value / against - 1.0


def _values(given: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(given, np.float64)
    found: NDArray[np.float64] = values[~np.isnan(values)]
    return found
