"""What will happen when, under virtual time."""

import heapq
from itertools import count
from math import floor, inf
from typing import Generic, TypeVar

_What = TypeVar("_What")
_STEPS_PER_S, _MOMENTS = 1_000_000, 1000
"""Things happen at whole microseconds; what is told of, within the next one."""
_MOMENTS_PER_S = _STEPS_PER_S * _MOMENTS
_APART, _STRIDE = 997, 619
"""Both primes: two steps that are not a multiple of _APART from each other have other moments."""


class Agenda(Generic[_What]):
    """What others hear of has a moment of its own, the next that is free: whoever looks on, on whatever loop, sees one order,
    and is done with one thing before the next. The rest happens between, in the order in which it was put there.

    Nor is what others hear of at a round time, or a round time from another: they may have alarms of their own then, and of
    what is due at once a loop takes whichever it likes first.
    """

    def __init__(self, now_s: float) -> None:
        self._now = _MOMENTS * floor(now_s * _STEPS_PER_S)
        self._heap: list[tuple[int, int, _What]] = []
        self._numbers = count()
        self._told: set[int] = set()

    @property
    def next_s(self) -> float:
        """When the next thing happens; infinite if nothing will."""
        return self._heap[0][0] / _MOMENTS_PER_S if self._heap else inf

    def put(self, at_s: float, what: _What) -> None:
        """It happens then, or as soon after as can be, and nobody hears of it."""
        heapq.heappush(self._heap, (_MOMENTS * self._after(at_s), next(self._numbers), what))

    def tell(self, at_s: float, what: _What) -> None:
        """The same of what others hear of."""
        step = self._after(at_s)
        while step in self._told:
            step += 1
        self._told.add(step)
        moment = _MOMENTS * step + 1 + step * _STRIDE % _APART
        heapq.heappush(self._heap, (moment, next(self._numbers), what))

    def pop(self) -> tuple[float, _What]:
        """The next thing, and when it happens. IndexError if there is none."""
        self._now, _, what = heapq.heappop(self._heap)
        if self._now % _MOMENTS:
            self._told.discard(self._now // _MOMENTS)
        return self._now / _MOMENTS_PER_S, what

    def _after(self, at_s: float) -> int:
        step, now = floor(at_s * _STEPS_PER_S), self._now // _MOMENTS
        return (step if step > now else now) + 1
