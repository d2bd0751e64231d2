"""What every tier that units can be read from has in common.

One contract, held by one suite of tests for every tier and every wrapper.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from storage_tiers.checkpoint import UnitIndex

Views = Sequence[memoryview]
"""Writable memory that stands for one row of bytes."""
Worth = tuple[float, int]
Ranking = Callable[[str, int], Worth]
"""Worth of keeping a unit: (digest, order of last use, larger is later) -> what sorts. The least is evicted first."""


def least_recently_used(_digest: str, last_used: int) -> Worth:
    """As long as nobody says what is worth more."""
    return 0.0, last_used


class Tier(Protocol):
    """A place that units are read from. Thread-safe."""

    name: str

    def holds(self, unit: UnitIndex) -> bool:
        """Whether reading the unit here is worth a try; cheap, and may be out of date."""
        ...

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        """Fill `views` with the unit's stored bytes from `offset_bytes` on, unchecked.

        Missing if the unit is not here, Corrupt if it is too short, StoreUnavailable if trying again may help.
        """
        ...

    def discard(self, unit: UnitIndex) -> None:
        """What was read here is bad, as is proven; a cache drops the unit, an origin keeps it."""
        ...


def total_bytes(views: Views) -> int:
    """How many bytes the views stand for."""
    return sum(len(view) for view in views)


def scatter(data: memoryview, views: Views) -> None:
    """Copy `data` into the views in a row; other threads run meanwhile, which a memoryview's own copy would not let."""
    source, at = np.frombuffer(data, np.uint8), 0
    for view in views:
        np.frombuffer(view, np.uint8)[:] = source[at : at + len(view)]
        at += len(view)
