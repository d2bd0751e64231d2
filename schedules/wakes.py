"""When to look again, and at what: times in a heap, one timer for all of them."""

import heapq
from collections.abc import Callable, Iterator
from itertools import count

Look = Callable[[float], None]
"""Called with the time that it is."""


class Wakes:
    """Looks that are due at their times, those of one time in the order in which they were asked for. What is out of date by
    then must see that itself."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Look]] = []
        self._numbers = count()
        self._told_s: float | None = None

    def at(self, at_s: float, look: Look) -> None:
        """Have `look` called then."""
        heapq.heappush(self._heap, (at_s, next(self._numbers), look))

    def due(self, now_s: float) -> Iterator[Look]:
        """What is due by now, each once. Whatever was told is spent, also if it is somewhat early."""
        self._told_s = None
        while self._heap and self._heap[0][0] <= now_s:
            yield heapq.heappop(self._heap)[2]

    def news(self) -> float | None:
        """The next time, if it is not the one that was told last."""
        if not self._heap or self._told_s == self._heap[0][0]:
            return None
        self._told_s = self._heap[0][0]
        return self._told_s
