"""How a stage takes the units that its node has brought: in place on a CPU, by copies to a GPU one behind the other."""

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from cluster.errors import StageFailed
from cluster.wire.phases import COPY
from cluster.wire.stages import PoolHere, PoolReal, UnitCopied, UnitHere
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import StorageError
from storage_tiers.tiers.cuda_copy import CudaCopy
from storage_tiers.tiers.device import Coming, DeviceTier
from storage_tiers.tiers.pinned_pool import PinnedPool
from storage_tiers.tiers.shared_memory import map_runs, populate

UNITS_AT_ONCE = 2
"""Copied or queued: the bus has no gap between two units, and a step's own copies wait for no more than these."""
FAULTS = (StorageError, StageFailed, OSError, RuntimeError, ValueError, KeyError)
"""What is wrong with a unit, or with the device, ends the stage."""
Tensors = Mapping[str, torch.Tensor]


class Stage(Protocol):
    """What the units are for. Called from several threads."""

    def wait_until_built(self) -> None:
        """Until a unit that is assigned is used at once. StageFailed if that takes too long."""
        ...

    def assign(self, unit: UnitIndex, tensors: Tensors) -> None:
        """Use the unit's tensors from now on, or as soon as the skeleton is built."""
        ...

    def tell(self, message: object) -> None:
        """Tell the agent."""
        ...

    def tell_phase(self, name: str, started_s: float, size_bytes: int = 0) -> None:
        """Report a part of the cold start that ends now."""
        ...

    def fail(self, error: Exception) -> None:
        """A unit could not be used."""
        ...


class UnitsInPlace:
    """On a CPU: a unit's tensors are the node's memory itself. Use from one thread."""

    def __init__(self, stage: Stage, tier: DeviceTier) -> None:
        self._stage, self._tier = stage, tier

    def take(self, here: UnitHere, fd: int | None) -> None:
        """Have the stage use the unit, once it can."""
        if fd is None:
            raise _no_descriptor()
        try:
            memory = map_runs(fd, here.runs)
        finally:
            os.close(fd)
        tensors = self._tier.hold(here.unit, memory)
        self._stage.wait_until_built()
        self._stage.assign(here.unit, tensors)
        populate(memory)


class UnitsByCopy:
    """On a GPU: two threads beside the caller's, so that the bus has no gap. One queues copies, at most UNITS_AT_ONCE units
    ahead; the other hands each over when its last byte is there, in order."""

    def __init__(self, stage: Stage, tier: DeviceTier, memory: "NodeMemory") -> None:
        self._stage, self._tier, self._memory = stage, tier, memory
        self._here: queue.SimpleQueue[tuple[UnitHere, PinnedPool] | None] = queue.SimpleQueue()
        self._coming: queue.SimpleQueue[tuple[UnitHere, Coming] | None] = queue.SimpleQueue()
        self._turns = threading.Semaphore(UNITS_AT_ONCE)
        self._failed = threading.Event()
        self._threads = [
            threading.Thread(target=self._until_it_fails, args=(work,), name=name, daemon=True)
            for work, name in ((self._copy, "copies"), (self._land, "landings"))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, here: UnitHere, fd: int | None) -> None:
        """Have the unit copied behind those that came before, and then used."""
        pool = self._memory.open(fd)
        pool.want(here.runs)
        self._here.put((here, pool))

    def close(self) -> None:
        """Wait until all that was taken is handed over, or something failed."""
        self._here.put(None)
        for thread in self._threads:
            thread.join()

    def _until_it_fails(self, work: Callable[[], None]) -> None:
        try:
            work()
        except FAULTS as error:
            self._failed.set()
            self._here.put(None)
            self._coming.put(None)
            self._turns.release(UNITS_AT_ONCE)
            self._stage.fail(error)

    def _copy(self) -> None:
        while (taken := self._here.get()) is not None:
            here, pool = taken
            self._turns.acquire()
            if self._failed.is_set():
                return
            self._coming.put((here, self._tier.send(here.unit, pool, here.runs)))
        self._coming.put(None)

    def _land(self) -> None:
        while (landing := self._coming.get()) is not None:
            here, coming = landing
            took_s = coming.wait()
            self._turns.release()
            self._stage.tell_phase(f"{COPY}{here.unit.name}", time.monotonic() - took_s, here.unit.size_bytes)
            self._stage.tell(UnitCopied(here.unit.digest))
            self._stage.assign(here.unit, coming.tensors)


class NodeMemory:
    """The node's memory for units as this process knows it: from the agent, else from the first unit. Use from one thread."""

    def __init__(self, copy: CudaCopy) -> None:
        self.copy = copy
        self._ahead = True
        self._pool: PinnedPool | None = None

    def hear(self, message: PoolHere | PoolReal, fd: int | None) -> None:
        """News from the agent. What came without its descriptor is as if it had not come."""
        if isinstance(message, PoolHere) and fd is not None:
            self._open(fd, message.piece_bytes)
        elif isinstance(message, PoolReal) and self._pool is not None:
            self._pool.hear(message.pieces)

    def open(self, fd: int | None) -> PinnedPool:
        """The memory. `fd` leads to it as well, and is closed. OSError if there is none, and nobody has told of it before."""
        if self._pool is None:
            if fd is None:
                raise _no_descriptor()
            return self._open(fd)
        if fd is not None:
            os.close(fd)
        return self._pool

    def pin_what_is_wanted(self) -> None:
        """The process has its order: no more is pinned than its units need."""
        self._ahead = False
        if self._pool is not None:
            self._pool.pin_what_is_wanted()

    def close(self) -> None:
        """Unpin what was pinned. Nothing may be copied any more."""
        if self._pool is not None:
            self._pool.close()

    def _open(self, fd: int, piece_bytes: int | None = None) -> PinnedPool:
        try:
            if self._pool is None:
                size_bytes = os.fstat(fd).st_size
                self._pool = PinnedPool(fd, size_bytes, self.copy.driver, piece_bytes or size_bytes)
                if not self._ahead:
                    self._pool.pin_what_is_wanted()
        finally:
            os.close(fd)
        return self._pool


def _no_descriptor() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
