"""Hazards of waits: how likely a wait that has lasted so many minutes ends in the next one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.foresight.calls import Places, Reals


def _lows() -> Places:
    octaves = [step << octave for octave in range(1, 15) for step in (2, 3)]
    return np.array([1, 2, 3, *(low for low in octaves if low > 3)], np.int64)


LOWS = _lows()
"""Of each bin the shortest wait, in minutes: two bins an octave."""
BINS = len(LOWS)
_WIDTHS = np.append(np.diff(LOWS), 1 << 40).astype(np.float64)


def bins_of(minutes: Places) -> Places:
    """In which each wait of at least a minute ends."""
    return np.searchsorted(LOWS, minutes, side="right") - 1


def at_risk(key: Places, keys: int, minutes: Places) -> Reals:
    """By key and bin, in how many minutes waits of so many minutes could have ended."""
    bins = bins_of(minutes)
    place = key * BINS + bins
    ending = np.bincount(place, minlength=keys * BINS).reshape(keys, BINS)
    partly = np.bincount(place, minutes - LOWS[bins] + 1.0, keys * BINS).reshape(keys, BINS)
    longer = np.cumsum(ending[:, ::-1], axis=1)[:, ::-1] - ending
    risk: Reals = np.asarray(partly + longer * _WIDTHS, np.float64)
    return risk


def drawn(prior: Reals, came: NDArray[Any], risk: NDArray[Any], strength: float) -> Reals:
    """A hazard from what was seen, drawn to `prior` as if that had been seen for `strength` events (gamma and Poisson)."""
    hazard: Reals = prior * (came + strength) / (risk * prior + strength)
    return hazard


def untaught() -> Reals:
    """By bin, where nothing was seen: of unknown scale, so half of all waits end before they are four times as long."""
    hazard: Reals = 0.5 / (LOWS + _WIDTHS / 2.0).clip(max=1 << 20)
    return hazard
