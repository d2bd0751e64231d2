"""Pasts to try methods of forecasting on: bursts, timers, waves of the day, all together, and recorded traces."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from schedules.foresight.past import DAY_S, Past, Seconds, past_of
from schedules.traces.lineup import popularity
from schedules.traces.renewals import arrivals_within
from schedules.traces.trace import Trace

MODELS, RATE_PER_S = 60, 0.06
PERIODS_S = tuple(60.0 * minutes for minutes in (5, 10, 15, 30, 60, 120, 360, 1440))
_Chance = np.random.Generator
_Each = Sequence[Seconds]


def bursts(cv: float, length_s: float, chance: _Chance) -> _Each:
    """Gamma gaps, the rates by Zipf's law."""
    return [arrivals_within(length_s, RATE_PER_S * share, cv, chance) for share in popularity(MODELS, 1.0)]


def timers(length_s: float, chance: _Chance) -> _Each:
    """Each of a period, up to 20 s late; one in fifty does not come."""
    made = []
    for _ in range(MODELS):
        period_s = chance.choice(PERIODS_S)
        at_s = chance.random() * period_s + np.arange(0.0, length_s, period_s)
        at_s += chance.random(len(at_s)) * 20.0
        made.append(at_s[chance.random(len(at_s)) > 0.02])
    return made


def waves(length_s: float, chance: _Chance) -> _Each:
    """At random, at noon nineteen times as often as at midnight."""
    grid_s = np.arange(0.0, length_s + 60.0, 60.0)
    come = grid_s - 0.9 * np.sin(2 * np.pi * grid_s / DAY_S) * DAY_S / (2 * np.pi)
    return [np.interp(each / length_s * come[-1], come, grid_s) for each in bursts(1.0, length_s, chance)]


def _together(length_s: float, chance: _Chance) -> _Each:
    return [*timers(length_s, chance), *waves(length_s, chance), *bursts(8.0, length_s, chance)]


CVS = {"cv2": 2.0, "cv4": 4.0, "cv8": 8.0}
KINDS: Mapping[str, Callable[[float, _Chance], _Each]] = {
    "cv2": lambda length_s, chance: bursts(2.0, length_s, chance),
    "cv4": lambda length_s, chance: bursts(4.0, length_s, chance),
    "cv8": lambda length_s, chance: bursts(8.0, length_s, chance),
    "timers": timers,
    "waves": waves,
    "together": _together,
}


def made(kind: str, length_s: float, seed: int) -> Past:
    """That begins at midnight."""
    each = KINDS[kind](length_s, np.random.default_rng(seed))
    model = np.repeat(np.arange(len(each)), [len(at_s) for at_s in each])
    at_s = np.concatenate(each)
    return past_of([f"{kind}-{i}" for i in range(len(each))], model, np.clip(at_s, 0.0, length_s), 0.0, length_s)


def recorded(trace: Trace) -> Past:
    """All of it."""
    return past_of(trace.models, trace.model, trace.at_s, 0.0, trace.duration_s)
