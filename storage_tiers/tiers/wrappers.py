"""Any tier behind a set bandwidth, or with faults: for tests and rehearsals."""

import threading
import time
from collections.abc import Callable

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.tiers.tier import Tier, Views, total_bytes


class Throttled:
    """A tier that gives at most `bytes_per_s`, all readers together."""

    def __init__(self, tier: Tier, bytes_per_s: float) -> None:
        self.name = tier.name
        self._tier, self._bytes_per_s = tier, bytes_per_s
        self._lock = threading.Lock()
        self._free_s = 0.0

    def holds(self, unit: UnitIndex) -> bool:
        return self._tier.holds(unit)

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        with self._lock:
            started_s = max(self._free_s, time.monotonic())
            self._free_s = started_s + total_bytes(views) / self._bytes_per_s
            until_s = self._free_s
        self._tier.read(model, unit, offset_bytes, views)
        time.sleep(max(0.0, until_s - time.monotonic()))

    def discard(self, unit: UnitIndex) -> None:
        self._tier.discard(unit)


Fault = Callable[[UnitIndex, int, Views], None]
"""Called after each read with the unit, the offset and what was read: may raise, or change the bytes."""


class Faulty:
    """A tier whose reads go through `fault` after they have succeeded."""

    def __init__(self, tier: Tier, fault: Fault) -> None:
        self.name = tier.name
        self._tier, self._fault = tier, fault

    def holds(self, unit: UnitIndex) -> bool:
        return self._tier.holds(unit)

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        self._tier.read(model, unit, offset_bytes, views)
        self._fault(unit, offset_bytes, views)

    def discard(self, unit: UnitIndex) -> None:
        self._tier.discard(unit)
