"""Any tier behind a set bandwidth, or with faults: for tests and rehearsals."""

from collections.abc import Callable

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.pace import Pace
from storage_tiers.tiers.tier import Tier, Views, total_bytes


class Throttled:
    """A tier that gives at most `bytes_per_s`, all readers together."""

    def __init__(self, tier: Tier, bytes_per_s: float) -> None:
        self.name = tier.name
        self._tier, self._pace = tier, Pace(bytes_per_s)

    def holds(self, unit: UnitIndex) -> bool:
        return self._tier.holds(unit)

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        with self._pace.held(total_bytes(views)):
            self._tier.read(model, unit, offset_bytes, views)

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
