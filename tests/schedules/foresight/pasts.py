"""Pasts of a few models, and of many made by a recipe."""

from collections.abc import Mapping, Sequence

import numpy as np

from schedules.foresight.past import MINUTE_S, Past, past_of
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import Trace

HOUR_MIN, DAY_MIN = 60, 1440


def past(came_min: Mapping[str, Sequence[float]], minutes: float, begin_s: float = 0.0) -> Past:
    """Of models that were called at those minutes since the begin."""
    at_min = np.concatenate([np.asarray(each, np.float64) for each in came_min.values()])
    model = np.repeat(np.arange(len(came_min)), [len(each) for each in came_min.values()])
    return past_of(tuple(came_min), model, begin_s + at_min * MINUTE_S, begin_s, begin_s + minutes * MINUTE_S)


def bursty(cv: float, models: int, rate_per_s: float, hours: float, seed: int, wave: float = 0.0) -> Trace:
    """Requests by Zipf's law, each model's with gamma gaps."""
    return synthesise(Recipe(numbered(models), rate_per_s, hours * 3600.0, cv=cv, wave=wave), seed)


def past_of_trace(trace: Trace, until_s: float) -> Past:
    return past_of(trace.models, trace.model, trace.at_s, 0.0, until_s)
