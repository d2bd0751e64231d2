"""How fast bytes come by one way while some are on their way, measured beside the transfers."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.tiers.tier import Tier, Views, total_bytes

GAP_S = 0.005
"""A pause as short as this, between a chunk and the next, does not end a window."""
WINDOW_S = 0.5
_ENOUGH_BYTES = 1_000_000
_LONG_S, _FEW_BYTES = 0.05, 256 << 10
"""A window of fewer bytes counts too if it lasted that long; of fewer than these it tells of delays, not of speed."""


@dataclass(frozen=True)
class Moved:
    """Bytes that came between two times, in seconds, of one clock; evenly, as far as one knows."""

    start_s: float
    end_s: float
    size_bytes: int

    def within(self, start_s: float, end_s: float) -> float:
        """How many of the bytes came between these times."""
        if self.end_s <= self.start_s:
            return self.size_bytes if start_s <= self.end_s <= end_s else 0.0
        overlap_s = min(self.end_s, end_s) - max(self.start_s, start_s)
        return self.size_bytes * max(0.0, overlap_s) / (self.end_s - self.start_s)


class Busy:
    """The speed of a way in windows: from a first byte wanted to a last one, all readers together; of a long time one
    every WINDOW_S. Thread-safe; a read costs a few microseconds. `clock` gives seconds.

    A sample is settled up to where no read is under way any more, so that large reads that end together do not look like
    a standstill and a leap.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[int, float] = {}
        self._reads = 0
        self._moved: list[Moved] = []
        self._since_s = self._last_s = 0.0
        self._samples: list[float] = []

    def begin(self) -> int:
        """A read begins; give what this returns to `end`."""
        with self._lock:
            now_s = self._clock()
            if not self._under_way and (not self._moved or now_s - self._last_s > GAP_S):
                self._settle(self._last_s)
                self._since_s = now_s
            self._reads += 1
            self._under_way[self._reads] = now_s
            return self._reads

    def end(self, read: int, size_bytes: int) -> None:
        """The read is over, and brought so many bytes: none if it failed."""
        with self._lock:
            self._last_s = self._clock()
            start_s = self._under_way.pop(read)
            if size_bytes:
                self._moved.append(Moved(start_s, self._last_s, size_bytes))
            until_s = min(self._under_way.values(), default=self._last_s)
            if until_s - self._since_s >= WINDOW_S:
                self._settle(until_s)

    def take(self) -> list[float]:
        """Samples in bytes/s since the last call, oldest first. A window that is over ends with this call."""
        with self._lock:
            if not self._under_way and self._moved and self._clock() - self._last_s > GAP_S:
                self._settle(self._last_s)
            samples, self._samples = self._samples, []
            return samples

    def _settle(self, until_s: float) -> None:
        """Under the lock: the window up to `until_s` becomes a sample, if it tells anything."""
        size_bytes = sum(moved.within(self._since_s, until_s) for moved in self._moved)
        seconds = until_s - self._since_s
        enough = size_bytes >= _ENOUGH_BYTES or (seconds >= _LONG_S and size_bytes >= _FEW_BYTES)
        if enough and seconds > 0:
            self._samples.append(size_bytes / seconds)
        self._moved = [moved for moved in self._moved if moved.end_s > until_s]
        self._since_s = until_s


class Timed:
    """A tier whose reads are told to a Busy."""

    def __init__(self, tier: Tier, busy: Busy) -> None:
        self.name = tier.name
        self._tier, self._busy = tier, busy

    def holds(self, unit: UnitIndex) -> bool:
        return self._tier.holds(unit)

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        size_bytes, read = 0, self._busy.begin()
        try:
            self._tier.read(model, unit, offset_bytes, views)
            size_bytes = total_bytes(views)
        finally:
            self._busy.end(read, size_bytes)

    def discard(self, unit: UnitIndex) -> None:
        self._tier.discard(unit)
