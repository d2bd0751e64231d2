"""What will happen when, under virtual time."""

import heapq
from math import floor
from typing import Generic, TypeVar

_What = TypeVar("_What")
_MOMENTS_PER_S = 1_000_000


class Agenda(Generic[_What]):
    """Each thing has a microsecond of its own, the next that is free from its time on: nothing happens at once, so that
    whoever looks on, on whatever loop, sees one order."""

    def __init__(self, now_s: float) -> None:
        self._now = floor(now_s * _MOMENTS_PER_S)
        self._moments: list[int] = []
        self._due: dict[int, _What] = {}

    @property
    def next_s(self) -> float:
        """When the next thing happens; infinite if nothing will."""
        return self._moments[0] / _MOMENTS_PER_S if self._moments else float("inf")

    def put(self, at_s: float, what: _What) -> None:
        """It happens then, or as soon after as can be."""
        moment = max(self._now, floor(at_s * _MOMENTS_PER_S)) + 1
        while moment in self._due:
            moment += 1
        self._due[moment] = what
        heapq.heappush(self._moments, moment)

    def pop(self) -> tuple[float, _What]:
        """The next thing, and when it happens. IndexError if there is none."""
        self._now = heapq.heappop(self._moments)
        return self._now / _MOMENTS_PER_S, self._due.pop(self._now)
