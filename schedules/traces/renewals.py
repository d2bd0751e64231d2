"""Arrivals at random, at a rate and with a coefficient of variation."""

import numpy as np

from schedules.traces.errors import BadWish
from schedules.traces.trace import MOST_REQUESTS, Seconds

MOST_CV = 100.0


def arrivals_within(length_s: float, rate_per_s: float, cv: float, rng: np.random.Generator) -> Seconds:
    """When requests come within `length_s`, with gamma gaps; evenly if their CV is 0, a Poisson process if it is 1.

    The process has always been running: its first gap is what is left of one that the begin falls into (a longer one the
    likelier). A process that begins with a request would have (cv² - 1) / 2 too many, 31 a model with a CV of 8.
    """
    if not 0 <= cv <= MOST_CV:
        raise BadWish(f"a CV is from 0 to {MOST_CV:g}, not {cv:g}")
    if not (rate_per_s >= 0 and length_s >= 0 and rate_per_s * length_s <= 2 * MOST_REQUESTS):
        raise BadWish("so many requests cannot be drawn: ask for fewer, or a lower CV")
    if rate_per_s == 0 or length_s == 0:
        return np.empty(0)
    mean_s = 1 / rate_per_s
    expected = rate_per_s * length_s
    at_s = [np.array([_first_s(mean_s, cv, rng)])]
    while at_s[-1][-1] < length_s:
        count = int(expected * (1 - at_s[-1][-1] / length_s) + 3 * (cv + 1) * expected**0.5) + 16
        at_s.append(at_s[-1][-1] + np.cumsum(_gaps(count, mean_s, cv, rng)))
    all_s = np.concatenate(at_s)
    return all_s[: np.searchsorted(all_s, length_s)]


def _gaps(count: int, mean_s: float, cv: float, rng: np.random.Generator) -> Seconds:
    return np.full(count, mean_s) if cv == 0 else rng.gamma(cv**-2, mean_s * cv**2, count)


def _first_s(mean_s: float, cv: float, rng: np.random.Generator) -> float:
    share = rng.random()
    return float(share * (mean_s if cv == 0 else rng.gamma(cv**-2 + 1, mean_s * cv**2)))
