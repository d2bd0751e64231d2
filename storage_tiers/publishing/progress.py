"""How far a pass over a model's units is."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class UnitProgress:
    """`unit` is one that is being worked on, or the one just done. Bytes and units only ever rise."""

    unit: str
    units_done: int
    units_total: int
    bytes_done: int
    bytes_total: int


Report = Callable[[UnitProgress], None]
"""Called from worker threads, one call at a time; what it raises ends the pass, and while it takes its time all wait."""


class Meter:
    """Adds up what several threads do and tells whoever wants to know. `sizes` are the units' in bytes."""

    def __init__(self, sizes: Mapping[str, int], report: Report | None) -> None:
        self._report = report
        self._sizes = sizes
        self._lock = threading.Lock()
        self._within: dict[str, int] = {}
        self._units_done = 0
        self._bytes_done = 0

    def within(self, unit: str, done_bytes: int) -> None:
        """That much of the unit is done."""
        with self._lock:
            self._within[unit] = done_bytes
            self._tell(unit)

    def done(self, unit: str) -> None:
        """The unit is done."""
        with self._lock:
            self._within.pop(unit, None)
            self._units_done += 1
            self._bytes_done += self._sizes[unit]
            self._tell(unit)

    def _tell(self, unit: str) -> None:
        if self._report is not None:
            bytes_done = self._bytes_done + sum(self._within.values())
            total = sum(self._sizes.values())
            self._report(UnitProgress(unit, self._units_done, len(self._sizes), bytes_done, total))
