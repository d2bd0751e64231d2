"""storage_tiers as the benchmarks use it; the only place that knows how tiers are made and tensors are had from them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.footprint import memfd_bytes
from cluster.stage import tensors_of
from storage_tiers.checkpoint import Checkpoint, UnitIndex
from storage_tiers.dram import DramTier
from storage_tiers.memory import BLOCK_BYTES, Extent, map_extents, populate
from storage_tiers.remote import ModelStore, ObjectStore
from storage_tiers.ssd import SsdTier
from storage_tiers.stack import Loaded, Priority, TierStack

THREADS = 4
_READY_S = 120.0
_LOAD_S = 600.0


@dataclass(frozen=True)
class Place:
    """Where a unit lies in memory that another process holds."""

    unit: UnitIndex
    extents: tuple[Extent, ...]


def model_store(url: str, options: Mapping[str, Any]) -> ModelStore:
    """The store at an fsspec URL."""
    return ModelStore(ObjectStore(url, options))


def place_of(loaded: Loaded) -> tuple[Place, int]:
    """What another process needs to attach the unit, and the descriptor to hand it."""
    return Place(loaded.unit, loaded.segment.extents), loaded.segment.fd


def attach(place: Place, fd: int) -> dict[str, torch.Tensor]:
    """The unit's tensors, as a stage process has them."""
    memory = map_extents(fd, place.extents)
    populate(memory)
    return tensors_of(place.unit, memory)


class Tiers:
    """An empty dram tier that just holds the model, ready as an agent's is, over an ssd tier and a store."""

    def __init__(
        self, store_url: str, options: Mapping[str, Any], model: str, ssd_dir: Path, ssd_bytes: int, threads: int = THREADS
    ) -> None:
        models = model_store(store_url, options)
        self.checkpoint: Checkpoint = models.open(model)
        dram_bytes = sum(-(-unit.size_bytes // BLOCK_BYTES) * BLOCK_BYTES for unit in self.checkpoint.units)
        dram = DramTier(dram_bytes, ready_bytes=dram_bytes)
        ssd = SsdTier(ssd_dir, ssd_bytes)
        self.stack = TierStack(dram, ssd, models, threads, time.monotonic, write_behind=ssd_bytes > 0)
        _wait_until(lambda: memfd_bytes("self") >= dram_bytes, _READY_S, "the dram tier did not become ready")

    def load(self, source: str) -> Iterator[Loaded]:
        """Bring every unit to dram, in load order. RuntimeError if one does not come from the tier called `source`."""
        futures = [
            self.stack.load(self.checkpoint.name, unit, Priority.COLD_START) for unit in self.checkpoint.units
        ]
        for future in futures:
            loaded = future.result(_LOAD_S)
            if loaded.source != source:
                raise RuntimeError(f"unit {loaded.unit.name} came from {loaded.source}, not from {source}")
            yield loaded

    def close(self) -> None:
        self.stack.close()


def fill_ssd(store_url: str, model: str, ssd_dir: Path) -> None:
    """Have every unit of the model in an ssd tier."""
    size_bytes = model_store(store_url, {}).open(model).size_bytes
    tiers = Tiers(store_url, {}, model, ssd_dir, 2 * size_bytes)
    try:
        for loaded in tiers.load("remote"):
            tiers.stack.keep_on_ssd(loaded.unit, loaded.segment).result(_LOAD_S)
    finally:
        tiers.close()
    for path in ssd_dir.iterdir():
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
