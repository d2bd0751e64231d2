"""Jobs of several classes for a few threads: the first class first, and the patient ones only while no better one runs."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection

Job = Callable[[], None]


class Jobs:
    """Within a class, the smaller the better, jobs begin in the order they were put. Thread-safe.

    A job of a `patient` class does not begin while one of a better class runs: it would take its share of the wire.
    """

    def __init__(self, patient: Collection[int]) -> None:
        self._patient = frozenset(patient)
        self._waiting: dict[int, deque[Job]] = {}
        self._running: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, priority: int, job: Job) -> None:
        """Run the job later."""
        with self._changed:
            self._waiting.setdefault(priority, deque()).append(job)
            self._changed.notify_all()

    def run_next(self) -> bool:
        """Wait for a job that may begin and run it; False if there will be none any more."""
        with self._changed:
            while (priority := self._next()) is None and not self._closed:
                self._changed.wait()
            if priority is None or self._closed:
                return False
            job = self._waiting[priority].popleft()
            self._running[priority] += 1
        try:
            job()
        finally:
            with self._changed:
                self._running[priority] -= 1
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
            return [job for priority in sorted(self._waiting) for job in self._waiting.pop(priority)]

    def _next(self) -> int | None:
        best = min((priority for priority, count in self._running.items() if count), default=None)
        for priority in sorted(self._waiting):
            waits = priority in self._patient and best is not None and best < priority
            if self._waiting[priority] and not waits:
                return priority
        return None
