"""What holding and moving a model is worth against the cold starts that it saves."""

from dataclasses import dataclass

import numpy as np

from schedules.foresight.calls import Reals

GIB = float(1 << 30)
HOUR_S = 3600.0


@dataclass(frozen=True, eq=False)
class Prices:
    """By model (rows of a past) the seconds of a cold start that it has if it is not held, and its bytes. A GiB held for an
    hour is worth `held_s_per_gib_hour` seconds of cold starts, a GiB moved `moved_s_per_gib`. With `room_bytes` no more
    is held at the begin of a step, what saves the most a byte first; what is called and was not held comes on top.

    ValueError for what is no price."""

    cold_start_s: Reals
    size_bytes: Reals
    held_s_per_gib_hour: float = 1.0
    moved_s_per_gib: float = 0.01
    room_bytes: float | None = None

    def __post_init__(self) -> None:
        if self.cold_start_s.shape != self.size_bytes.shape or self.cold_start_s.ndim != 1:
            raise ValueError("cold starts and sizes are not of the same models")
        numbers = (
            self.cold_start_s,
            self.size_bytes,
            self.held_s_per_gib_hour,
            self.moved_s_per_gib,
            self.room_bytes or 0.0,
        )
        if not all(np.isfinite(number).all() and (np.asarray(number) >= 0.0).all() for number in numbers):
            raise ValueError("a price is a finite number that is not negative")

    @property
    def held_s_per_minute(self) -> Reals:
        """By model, for holding it."""
        price: Reals = self.size_bytes / GIB * self.held_s_per_gib_hour / 60.0
        return price

    @property
    def moved_s(self) -> Reals:
        """By model, for bringing it once."""
        price: Reals = self.size_bytes / GIB * self.moved_s_per_gib
        return price

    def cost_s(self, cold_start_s: Reals, held_byte_s: Reals, moved_bytes: Reals) -> Reals:
        """All in seconds of cold starts."""
        held_s = held_byte_s / GIB / HOUR_S * self.held_s_per_gib_hour
        cost: Reals = cold_start_s + held_s + moved_bytes / GIB * self.moved_s_per_gib
        return cost


def same_prices(
    models: int,
    cold_start_s: float,
    size_bytes: float,
    held_s_per_gib_hour: float = 1.0,
    moved_s_per_gib: float = 0.01,
    room_bytes: float | None = None,
) -> Prices:
    """Of models that are all alike."""
    each = np.full(models, float(cold_start_s)), np.full(models, float(size_bytes))
    return Prices(*each, held_s_per_gib_hour, moved_s_per_gib, room_bytes)
