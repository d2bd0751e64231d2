"""A forecast acted upon: what is held from one step to the next, and what that spares and costs."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from schedules.foresight.calls import Reals
from schedules.foresight.forecast import Forecast
from schedules.foresight.past import MINUTE_S
from schedules.foresight.prices import Prices

Flags = NDArray[np.bool_]


@dataclass
class Holding:
    """What happened so far, by model: `there` are those that are held or were called in the step before. A model that is
    called and not held has one cold start, is brought, and is there until the step is over; all its requests of that
    minute wait for it (`waited`)."""

    there: Flags
    cold_starts: Reals
    waited: Reals
    held_byte_s: Reals
    moved_bytes: Reals

    @classmethod
    def of(cls, models: int) -> Self:
        """Nothing is there."""
        return cls(np.zeros(models, np.bool_), *(np.zeros(models) for _ in range(4)))

    def step(self, hold: Flags, counts: NDArray[np.int32], prices: Prices) -> None:
        """The minutes of a step go by with those held."""
        minutes = counts.shape[1]
        called = counts > 0
        some = called.any(axis=1)
        first = np.argmax(called, axis=1)
        cold = some & ~hold
        self.cold_starts += cold
        self.waited += np.where(cold, counts[np.arange(len(first)), first], 0)
        held_min = np.where(hold, minutes, np.where(cold, minutes - first, 0))
        self.held_byte_s += held_min * MINUTE_S * prices.size_bytes
        self.moved_bytes += ((hold & ~self.there) | cold) * prices.size_bytes
        self.there = hold | some


def held(forecast: Forecast, there: Flags, last_s: Reals, prices: Prices) -> Flags:
    """A model is held if for any number of minutes from now on the cold start that is spared with that probability is worth
    more than its room so long, and its way if it is not there. Where there is `room_bytes` the room has no other price: what
    spares the most a byte is held, what is called sooner before what is later, and of what spares nothing what is there and
    was called last."""
    minutes = np.arange(1, forecast.by_then.shape[1] + 1)
    spared = forecast.by_then * prices.cold_start_s[:, None]
    way = np.where(there, 0.0, prices.moved_s)
    if prices.room_bytes is None:
        worth = (spared - prices.held_s_per_minute[:, None] * minutes).max(axis=1) - way
        pays: Flags = worth > 0.0
        return pays
    spares = spared.mean(axis=1) - way
    order = np.lexsort((-last_s, -spares / np.maximum(prices.size_bytes, 1.0)))
    wanted = (spares > 0.0) | there
    fits = np.zeros(len(order), np.bool_)
    fits[order] = np.cumsum(np.where(wanted, prices.size_bytes, 0.0)[order]) <= prices.room_bytes
    hold: Flags = fits & wanted
    return hold
