"""Callers who have not shown a secret yet: how many there may be, how long they have, and what is logged of them."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

MOST_STRANGERS = 32
INTRODUCE_WITHIN_S = 2.0
"""Who knows the secret says it with the first packet."""
SAY_EVERY_S = 10.0


class Strangers(Generic[_T]):
    """Connections that nobody vouches for yet, MOST_STRANGERS at once: the oldest makes room for the newest, so that those
    who only wait keep nobody out. Thread-safe.

    `turn_away` ends a connection without waiting; it is called with a lock held.
    """

    def __init__(self, turn_away: Callable[[_T], None]) -> None:
        self._turn_away = turn_away
        self._waiting: dict[_T, None] = {}
        self._lock = threading.Lock()

    def admit(self, connection: _T) -> None:
        """Somebody has come."""
        with self._lock:
            self._waiting[connection] = None
            if len(self._waiting) > MOST_STRANGERS:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                self._turn_away(oldest)

    def leave(self, connection: _T) -> None:
        """It is known now, or gone; from here on it is not turned away."""
        with self._lock:
            self._waiting.pop(connection, None)


class Refusals:
    """Says in a log who was refused, at most every SAY_EVERY_S seconds, and nothing of what they said. Thread-safe."""

    def __init__(self, log: logging.Logger, where: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._where, self._clock = log, where, clock
        self._lock = threading.Lock()
        self._said_s = float("-inf")
        self._unsaid = 0

    def note(self, host: str, why: str) -> None:
        """Somebody from `host` was refused."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._said_s < SAY_EVERY_S:
                self._unsaid += 1
                return
            unsaid, self._said_s, self._unsaid = self._unsaid, now_s, 0
        more = f" ({unsaid} more before)" if unsaid else ""
        self._log.warning("%s: a caller from %s was refused: %s%s", self._where, host, why, more)
