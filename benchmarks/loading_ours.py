"""storage_tiers as the benchmarks use it; the only place that knows how tiers are made and tensors are had from them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.footprint import memfd_bytes
from benchmarks.loading_worker import Job, Load
from cluster.wire.stages import UnitHere
from storage_tiers.checkpoint import Checkpoint, UnitIndex
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.tiers.device import tensors_of
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.shared_memory import BLOCK_BYTES, map_runs, populate
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.stack import Loaded, Priority, TierStack

THREADS = 8
"""As many as a node has by default (node.fetch_threads)."""
_READY_S = 120.0
_LOAD_S = 600.0


def model_store(url: str, options: Mapping[str, Any], reader: str = "auto") -> ModelStore:
    """The store at an fsspec URL, its ranges read through the door called `reader`."""
    return ModelStore(ObjectStore(url, options, reader))


def hand_over(loaded: Loaded) -> tuple[UnitHere, int]:
    """What an agent sends to a stage process: a message and a descriptor."""
    return UnitHere(loaded.unit, loaded.segment.runs), loaded.segment.fd


class Attachment:
    """A unit that was handed over, as a stage process has it."""

    def __init__(self, here: UnitHere, fd: int) -> None:
        self._memory = map_runs(fd, here.runs)
        self.tensors: dict[str, torch.Tensor] = tensors_in(here.unit, self._memory)

    def populate(self) -> None:
        """Have its pages in this process's page tables."""
        populate(self._memory)


def tensors_in(unit: UnitIndex, buffer: Any) -> dict[str, torch.Tensor]:
    """A unit's tensors as views of any buffer that begins with its bytes."""
    return tensors_of(unit, torch.frombuffer(buffer, dtype=torch.uint8))


class Tiers:
    """An empty dram tier that just holds the model, ready as an agent's is, over an ssd tier and a store."""

    def __init__(
        self,
        store_url: str,
        options: Mapping[str, Any],
        model: str,
        ssd_dir: Path,
        write_behind: bool = False,
        reader: str = "auto",
        threads: int = THREADS,
    ) -> None:
        models = model_store(store_url, options, reader)
        self.checkpoint: Checkpoint = models.open(model)
        dram_bytes = sum(-(-unit.size_bytes // BLOCK_BYTES) * BLOCK_BYTES for unit in self.checkpoint.units)
        dram = DramTier(dram_bytes, ready_bytes=dram_bytes)
        ssd = SsdTier(ssd_dir, 2 * self.checkpoint.size_bytes, bounce=not dram.huge)
        self.stack = TierStack(dram, ssd, models, threads, time.monotonic, write_behind=write_behind)
        _wait_for_memory(dram_bytes)

    def load(self, source: str) -> Iterator[Loaded]:
        """Bring every unit to dram, in load order. RuntimeError if one does not come from the tier called `source`."""
        futures = [self.stack.load(self.checkpoint.name, unit, Priority.COLD_START) for unit in self.checkpoint.units]
        for future in futures:
            loaded = future.result(_LOAD_S)
            if loaded.source != source:
                raise RuntimeError(f"unit {loaded.unit.name} came from {loaded.source}, not from {source}")
            yield loaded

    def close(self) -> None:
        """Free the memory; what is still to be written is not."""
        self.stack.close()


def from_ssd(job: Job, stack: ExitStack) -> Load:
    """A loader for loading_worker: the model's units from the ssd tier."""
    return _loader(job, stack, "ssd")


def from_remote(job: Job, stack: ExitStack) -> Load:
    """The same from the store."""
    return _loader(job, stack, "remote")


def _loader(job: Job, stack: ExitStack, source: str) -> Load:
    tiers = Tiers(job.store_url, job.store_options, job.model, Path(job.ssd_dir), job.write_behind, job.reader)
    stack.callback(tiers.close)

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        for loaded in tiers.load(source):
            attachment = Attachment(*hand_over(loaded))
            attachment.populate()
            yield from attachment.tensors.items()

    return load


def fill_ssd(store_url: str, model: str, ssd_dir: Path) -> None:
    """Have every unit of the model in an ssd tier."""
    tiers = Tiers(store_url, {}, model, ssd_dir)
    try:
        for loaded in tiers.load("remote"):
            tiers.stack.keep_on_ssd(loaded.unit, loaded.segment).result(_LOAD_S)
    finally:
        tiers.close()


def _wait_for_memory(size_bytes: int) -> None:
    """An agent makes its memory real when it starts, long before a load; TimeoutError if that takes for ever."""
    until_s = time.monotonic() + _READY_S
    while memfd_bytes("self") < size_bytes:
        if time.monotonic() > until_s:
            raise TimeoutError("the dram tier did not become ready")
        time.sleep(0.02)
