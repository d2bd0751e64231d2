"""Whether what a model's root claims is there: its objects by one listing, and the files that it is in place in.

Memory is reserved by these sizes before a byte is read, so they are compared as soon as a root is new to somebody.
"""

import logging
from collections.abc import Collection, Mapping

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import Corrupt, StoreUnavailable
from storage_tiers.model_store import ModelStore

_log = logging.getLogger(__name__)


def check_present(models: ModelStore, checkpoint: Checkpoint, held: Collection[str] = ()) -> None:
    """Corrupt if an object of the model is missing or shorter than its root claims, or a file that it is in place in.

    Units whose digests are `held`, since some node has them, need not be in the store. A store that gives objects but
    lists none is believed, and a warning logged.
    """
    try:
        _check_objects(models, checkpoint, held)
        _check_extents(models, checkpoint, held)
    except StoreUnavailable as error:
        _log.warning("whether %s is whole cannot be told: %s", checkpoint.name, error)


def _check_objects(models: ModelStore, checkpoint: Checkpoint, held: Collection[str]) -> None:
    parts = [unit for unit in checkpoint.units if unit.digest not in held]
    prefix = f"{checkpoint.version}/"
    wanted = {
        part.key.removeprefix(prefix): part.layout.object_bytes
        for part in (*parts, *checkpoint.files)
        if not part.extents
    }
    _compare(checkpoint, wanted, models.objects.sizes(f"{checkpoint.name}/{checkpoint.version}", list(wanted)))


def _check_extents(models: ModelStore, checkpoint: Checkpoint, held: Collection[str]) -> None:
    ends: dict[str, dict[str, int]] = {}
    for unit in checkpoint.units:
        for extent in unit.extents if unit.digest not in held else ():
            folder, _, file = extent.url.rpartition("/")
            reached = ends.setdefault(folder, {})
            reached[file] = max(reached.get(file, 0), extent.offset_bytes + extent.size_bytes)
    for folder, wanted in ends.items():
        _compare(checkpoint, wanted, models.folder(folder).sizes("", list(wanted)))


def _compare(checkpoint: Checkpoint, wanted: Mapping[str, int], found: Mapping[str, int]) -> None:
    for key, size_bytes in wanted.items():
        if found.get(key, -1) < size_bytes:
            there = f"has {found[key]:,} bytes" if key in found else "is not there"
            raise Corrupt(f"{key} of model {checkpoint.name} {there}; its root claims {size_bytes:,}")
