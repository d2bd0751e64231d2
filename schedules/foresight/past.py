"""What was asked for until now, minute by minute: all that a forecast may look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from schedules.foresight.calls import Calls, calls_in

MINUTE_S = 60.0
DAY_S = 86_400.0
NEVER_S = float("-inf")
Counts = NDArray[np.int32]
Seconds = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Past:
    """`counts[i, j]` requests for `models[i]` came in the `j`-th minute from `begin_s`, which is a whole number of minutes,
    on a clock whose days begin at multiples of DAY_S (unix seconds, or those of a trace). Nothing is known of after
    `until_s`, within the last of those minutes or at its end. `last_s[i]` is when the latest came, NEVER_S if none did.

    ValueError says what is wrong with it.
    """

    models: tuple[str, ...]
    counts: Counts
    begin_s: float
    until_s: float
    last_s: Seconds

    def __post_init__(self) -> None:
        minutes = minutes_between(self.begin_s, self.until_s)
        if self.counts.shape != (len(self.models), minutes) or self.last_s.shape != (len(self.models),):
            raise ValueError(
                f"{self.counts.shape} counts and {self.last_s.shape} latest arrivals are not of {len(self.models)} models "
                f"and {minutes} minutes"
            )
        if self.counts.size and self.counts.min() < 0:
            raise ValueError("fewer than no requests came in a minute")
        for name in ("counts", "last_s"):
            column = getattr(self, name).view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)

    @property
    def minutes(self) -> int:
        """How many there are, the last one as far as it went."""
        return int(self.counts.shape[1])

    @property
    def next_minute(self) -> int:
        """The first, by its place, that is wholly to come, or as good as: one that has just begun counts as to come."""
        return int((self.until_s - self.begin_s) / MINUTE_S + 0.5)

    @cached_property
    def calls(self) -> Calls:
        """The minutes in which anything came."""
        return calls_in(self.counts)

    def before(self, until_s: float) -> Self:
        """What was known at that time; of a minute that is cut all of it counts, but no arrival as later than `until_s`."""
        minutes = minutes_between(self.begin_s, until_s)
        calls = self.calls.before(minutes)
        latest = calls.latest
        end_s = np.minimum(self.begin_s + (latest + 1) * MINUTE_S, until_s)
        last_s = np.where(latest < 0, NEVER_S, np.minimum(self.last_s, end_s))
        made = type(self)(self.models, self.counts[:, :minutes], self.begin_s, until_s, last_s)
        made.__dict__["calls"] = calls  # what is computed anew at the first look is known already
        return made


def minutes_between(begin_s: float, until_s: float) -> int:
    """Of which any part lies between. ValueError unless `begin_s` is a whole minute and not after `until_s`."""
    if begin_s % MINUTE_S or until_s < begin_s:
        raise ValueError(f"minutes from {begin_s} to {until_s} s")
    return int(-((begin_s - until_s) // MINUTE_S))


def past_of(models: Sequence[str], model: NDArray[Any], at_s: Seconds, begin_s: float, until_s: float) -> Past:
    """Of requests for `models[model[i]]` that came at `at_s[i]`, in any order, as far as they came from the minute of
    `begin_s` to before `until_s`."""
    begin_s = begin_s // MINUTE_S * MINUTE_S
    minutes = minutes_between(begin_s, until_s)
    known = (at_s >= begin_s) & (at_s < until_s)
    which, came_s = np.asarray(model)[known].astype(np.int64), at_s[known]
    minute = ((came_s - begin_s) // MINUTE_S).astype(np.int64)
    counts = np.bincount(which * minutes + minute, minlength=len(models) * minutes).reshape(len(models), minutes)
    last_s = np.full(len(models), NEVER_S)
    np.maximum.at(last_s, which, came_s)
    return Past(tuple(models), counts.astype(np.int32), begin_s, until_s, last_s)
