"""The remote tier as a source of units: published checkpoints in an object store."""

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Faltering
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.tier import Views, scatter, total_bytes


class RemoteTier:
    """Units of a ModelStore. It is the origin: it holds every unit, as far as one can know without asking."""

    name = "remote"

    def __init__(self, models: ModelStore) -> None:
        self._models = models

    def holds(self, unit: UnitIndex) -> bool:
        return True

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        if self._models.is_local(unit) or len(views) == 1:
            for view in views:
                self._models.read_unit_into(model, unit, offset_bytes, view)
                offset_bytes += len(view)
            return
        try:
            whole = memoryview(bytearray(total_bytes(views)))  # over a network one request is better than several
        except MemoryError as error:
            raise Faltering(f"there is no memory to read unit {unit.name} of {model} into") from error
        self._models.read_unit_into(model, unit, offset_bytes, whole)
        scatter(whole, views)

    def discard(self, unit: UnitIndex) -> None:
        """An origin keeps what it has."""
