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
    behind: bool = field(default=False, compare=False)
    """One of those that have a thread of their own, and begin only while no other one waits that could begin."""


_Entry = tuple[Rank, int, Job]


class Jobs:
    """See Rank; jobs of equal rank begin in the order they were put. Thread-safe.

    Of those on the wire at most `lanes` run at once; None is as many as there are threads.
    """

    def __init__(self) -> None:
        self.lanes: int | None = None
        self._held_from, self._held_until_s = 0, 0.0
        self._waiting: dict[tuple[int, bool, bool], list[_Entry]] = {}
        self._later: list[tuple[float, _Entry]] = []
        self._running: dict[int, tuple[Rank, float]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, rank: Rank, job: Job, after_s: float = 0.0) -> None:
        """Run the job later, not before so many seconds have passed. Until then it holds nobody up."""
        with self._changed:
            entry = rank, next(self._numbers), job
            if after_s > 0:
                heapq.heappush(self._later, (time.monotonic() + after_s, entry))
            else:
                self._add(entry)
            self._changed.notify_all()

    def hold(self, priority: int, until_s: float) -> None:
        """Those on the wire of that priority, or of a worse one, do not begin before that time of the monotonic clock,
        whatever was said before."""
        with self._changed:
            self._held_from, self._held_until_s = priority, until_s
            self._changed.notify_all()

    def run_next(self, behind: bool = False) -> bool:
        """Wait for a job that may begin and run it, one of those `behind` or one of the others; False if there will be none
        any more."""
        with self._changed:
            while not self._closed and (waiting := self._next(behind)) is None:
                self._changed.wait(self._look_after_s())
            if self._closed or waiting is None:
                return False
            rank, number, job = heapq.heappop(waiting)
            self._running[number] = rank, time.monotonic()
            self._changed.notify_all()
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
            entries = [entry for waiting in self._waiting.values() for entry in waiting]
            entries = sorted(entries + [entry for _, entry in self._later])
            self._waiting.clear()
            self._later.clear()
        return [job for _, _, job in entries]

    def _add(self, entry: _Entry) -> None:
        rank = entry[0]
        heapq.heappush(self._waiting.setdefault((rank.priority, rank.wire, rank.behind), []), entry)

    def _look_after_s(self) -> float | None:
        """When to look again without being told; None if there is nothing that could change by itself."""
        found = [_LOOK_EVERY_S] if any(self._waiting.values()) else []
        now_s = time.monotonic()
        if self._later:
            found.append(max(0.0, self._later[0][0] - now_s))
        if now_s < self._held_until_s:
            found.append(self._held_until_s - now_s)
        return min(found, default=None)

    def _next(self, behind: bool) -> list[_Entry] | None:
        """Where the job is that begins next."""
        now_s = time.monotonic()
        while self._later and self._later[0][0] <= now_s:
            self._add(heapq.heappop(self._later)[1])
        running = [rank for rank, began_s in self._running.values() if began_s > now_s - PATIENCE_S]
        for _, waiting in sorted(self._waiting.items(), key=lambda item: item[0]):
            if waiting and not self._held_up(waiting[0][0], running):
                return waiting if waiting[0][0].behind == behind else None
        return None

    def _held_up(self, rank: Rank, running: Sequence[Rank]) -> bool:
        held = rank.wire and rank.priority >= self._held_from and time.monotonic() < self._held_until_s
        if held or any(_holds_up(other, rank) for other in running):
            return True
        if self.lanes is None or not rank.wire:
            return False
        return sum(other.wire and other.priority <= rank.priority for other in running) >= self.lanes


def _holds_up(running: Rank, rank: Rank) -> bool:
    if running.priority != rank.priority:
        return rank.patient and running.priority < rank.priority
    return rank.wire and running.wire and running.turn < rank.turn
