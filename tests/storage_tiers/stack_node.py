"""A node's stack to test: over a store whose reads are noted, and can be held back or made to fail."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.stack import Loaded, Priority, TierStack
from storage_tiers.tiers.tier import Tier, Views
from tests.storage_tiers.handmade import CHUNK_BYTES

CHUNKS = 3
UNIT_BYTES = CHUNKS * CHUNK_BYTES
WAIT_S = 30.0
Units = list[tuple[UnitIndex, bytes]]

Before = Callable[[UnitIndex, int], None]


class Watched:
    """A tier that notes every read; `before` happens ahead of each, and may raise or wait."""

    def __init__(self, tier: Tier, before: Before = lambda _unit, _chunk: None, name: str = "remote") -> None:
        self.name, self.before = name, before
        self._tier = tier
        self.reads: list[tuple[str, int]] = []

    def holds(self, unit: UnitIndex) -> bool:
        return self._tier.holds(unit)

    def read(self, model: str, unit: UnitIndex, offset_bytes: int, views: Views) -> None:
        chunk = offset_bytes // unit.layout.chunk_bytes
        self.reads.append((unit.name, chunk))
        self.before(unit, chunk)
        self._tier.read(model, unit, offset_bytes, views)

    def discard(self, unit: UnitIndex) -> None:
        self._tier.discard(unit)


class Node:
    """A stack over a store, and what it needs; a second one over the same folder is the same node after a restart."""

    def __init__(
        self,
        store: ModelStore,
        folder: Path,
        before: Before = lambda _unit, _chunk: None,
        *,
        dram_units: int = 8,
        ssd_units: int = 8,
        threads: int = 4,
        write_behind: bool = True,
    ) -> None:
        self.remote = Watched(RemoteTier(store), before)
        self.dram, self.ssd = DramTier(dram_units * UNIT_BYTES), SsdTier(folder, ssd_units * UNIT_BYTES)
        clock = iter(range(10**9))
        self.stack = TierStack(
            self.dram, self.ssd, store, threads, lambda: float(next(clock)), self.remote, write_behind
        )

    def load(
        self, unit: UnitIndex, priority: Priority = Priority.COLD_START, peers: Sequence[Tier] = ()
    ) -> Future[Loaded]:
        return self.stack.load("model", unit, priority, peers)

    def get(self, unit: UnitIndex, *peers: Tier) -> Loaded:
        return self.load(unit, peers=peers).result(WAIT_S)

    def fail(self, unit: UnitIndex) -> BaseException | None:
        return self.load(unit).exception(WAIT_S)

    def settle(self, loaded: Loaded) -> None:
        """Wait until the unit is on ssd, and let go of it."""
        self.stack.keep_on_ssd(loaded.unit, loaded.segment).result(WAIT_S)
        self.stack.release(loaded.unit)


@contextmanager
def running(node: Node) -> Iterator[Node]:
    try:
        yield node
    finally:
        node.stack.close()


class Gate:
    """Holds back reads until it is opened."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self, _unit: UnitIndex, _chunk: int) -> None:
        self.reached.set()
        assert self._open.wait(WAIT_S)

    def open(self) -> None:
        self._open.set()
