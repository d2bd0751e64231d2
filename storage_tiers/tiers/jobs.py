"""Jobs of several ranks for a few threads: the better rank first, and the patient only while nobody better runs."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Job = Callable[[], None]
PATIENCE_S = 15.0
"""A job that has run for so long holds nobody up any more: it hangs, as a read from an endpoint that is silent does."""
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, order=True)
class Rank:
    """Of two jobs the one of the smaller `priority` begins first, then that of the smaller `turn`.

    While one with a smaller priority runs a `patient` one does not begin: it would take its share. Nor does one on the
    `wire` while another on the wire runs whose turn is before it, in its own priority, or as many as there are lanes that
    are not of a worse priority.
    """

    priority: int
    turn: int = 0
    wire: bool = field(default=False, compare=False)
    patient: bool = field(default=False, compare=False)


class Jobs:
    """See Rank; jobs of equal rank begin in the order they were put. Thread-safe.

    Of those on the wire at most `lanes` run at once; None is as many as there are threads.
    """

    def __init__(self) -> None:
        self.lanes: int | None = None
        self._waiting: dict[tuple[int, bool], list[tuple[Rank, int, Job]]] = {}
        self._running: dict[int, tuple[Rank, float]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, rank: Rank, job: Job) -> None:
        """Run the job later."""
        with self._changed:
            waiting = self._waiting.setdefault((rank.priority, rank.wire), [])
            heapq.heappush(waiting, (rank, next(self._numbers), job))
            self._changed.notify_all()

    def run_next(self) -> bool:
        """Wait for a job that may begin and run it; False if there will be none any more."""
        with self._changed:
            while not self._closed and (waiting := self._next()) is None:
                self._changed.wait(_LOOK_EVERY_S if any(self._waiting.values()) else None)
            if self._closed or waiting is None:
                return False
            rank, number, job = heapq.heappop(waiting)
            self._running[number] = rank, time.monotonic()
        try:
            job()
        finally:
            with self._changed:
                del self._running[number]
                self._changed.notify_all()
        return True

    def close(self) -> None:
        """No job begins any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def left(self) -> list[Job]:
        """Those that never began, for whoever closed."""
        with self._changed:
            entries = sorted(entry for waiting in self._waiting.values() for entry in waiting)
            self._waiting.clear()
        return [job for _, _, job in entries]

    def _next(self) -> list[tuple[Rank, int, Job]] | None:
        """Where the job is that begins next."""
        since_s = time.monotonic() - PATIENCE_S
        running = [rank for rank, began_s in self._running.values() if began_s > since_s]
        for _, waiting in sorted(self._waiting.items(), key=lambda item: item[0]):
            if waiting and not self._held_up(waiting[0][0], running):
                return waiting
        return None

    def _held_up(self, rank: Rank, running: Sequence[Rank]) -> bool:
        if any(_holds_up(other, rank) for other in running):
            return True
        if self.lanes is None or not rank.wire:
            return False
        return sum(other.wire and other.priority <= rank.priority for other in running) >= self.lanes


def _holds_up(running: Rank, rank: Rank) -> bool:
    if running.priority != rank.priority:
        return rank.patient and running.priority < rank.priority
    return rank.wire and running.wire and running.turn < rank.turn
