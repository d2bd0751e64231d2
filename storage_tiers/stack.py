"""All tiers of a node as one: units come from the fastest tier that has them, checked on their way in.

A load is a set of chunk reads that worker threads take in order of priority, straight into the unit's dram segment.
However many wait for a unit, it is loaded once. What came from the remote tier is written to ssd behind the load.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum

import crc32c

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.dram import DramTier, Segment
from storage_tiers.errors import Corrupt, StorageError, StoreUnavailable
from storage_tiers.remote import LOCAL_PIECE_BYTES, ModelStore
from storage_tiers.ssd import SsdTier

_log = logging.getLogger(__name__)
REMOTE_ATTEMPTS = 4
FIRST_BACKOFF_S = 0.05
_LAST = 100


class Priority(IntEnum):
    """Who goes first on the wires: the least number."""

    COLD_START = 0
    PREWARM = 10
    WRITE_BEHIND = 20


@dataclass(frozen=True)
class Loaded:
    """A unit in dram, pinned for the caller; `source` is the tier it came from, times are the stack's clock."""

    unit: UnitIndex
    segment: Segment
    source: str
    started_s: float
    ended_s: float


@dataclass
class _Load:
    model: str
    unit: UnitIndex
    source: str
    started_s: float
    segment: Segment
    priority: Priority
    chunks_left: int
    unread: set[int]
    waiters: list[Future[Loaded]] = field(default_factory=list)
    error: StorageError | None = None


def _closed() -> StorageError:
    return StorageError("the node is shutting down")


class TierStack:
    """dram over ssd over remote. Thread-safe; `clock` gives seconds, for the ledger only."""

    def __init__(
        self, dram: DramTier, ssd: SsdTier, models: ModelStore, threads: int, clock: Callable[[], float]
    ) -> None:
        self.dram, self.ssd, self.models = dram, ssd, models
        self._clock = clock
        self._lock = threading.RLock()
        self._loads: dict[str, _Load] = {}
        self._order = itertools.count()
        self._jobs: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._closing = threading.Event()
        self._local = threading.local()
        self._threads = [threading.Thread(target=self._work, name=f"tier-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def load(self, model: str, unit: UnitIndex, priority: Priority) -> Future[Loaded]:
        """Bring a unit to dram; the result is pinned, so pair it with `release`.

        The future fails with Missing, Corrupt, StoreUnavailable or OutOfSpace; nothing is kept then. It cannot be
        cancelled: others may wait for the same unit. A load under way that now matters more goes on in its new place.
        """
        future: Future[Loaded] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closing.is_set():
                future.set_exception(_closed())
                return future
            now = self._clock()
            segment = self.dram.acquire(unit.digest)
            if segment is not None:
                future.set_result(Loaded(unit, segment, "dram", now, now))
                return future
            running = self._loads.get(unit.digest)
            if running is not None:
                running.waiters.append(future)
                if priority < running.priority:
                    self._submit_chunks(running, priority)
                return future
            try:
                segment = self.dram.reserve(unit.digest, unit.size_bytes)
            except StorageError as error:
                future.set_exception(error)
                return future
            source = "ssd" if self.ssd.holds(unit.digest, unit.size_bytes) else "remote"
            chunks = unit.layout.chunks
            load = _Load(model, unit, source, now, segment, priority, chunks, set(range(chunks)), [future])
            self._loads[unit.digest] = load
            self._submit_chunks(load, priority)
        return future

    def release(self, unit: UnitIndex) -> None:
        """The caller no longer needs the unit that a load handed it."""
        self.dram.release(unit.digest)

    def keep_on_ssd(self, unit: UnitIndex, segment: Segment) -> Future[None]:
        """Write a unit that the caller holds in dram to ssd, behind everything else."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()

        def write() -> None:
            try:
                if self._closing.is_set():
                    raise _closed()
                self.ssd.write(unit.digest, segment.view[: unit.size_bytes])
            except StorageError as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        with self._lock:
            if self._closing.is_set():
                future.set_exception(_closed())
            else:
                self._submit(Priority.WRITE_BEHIND, write)
        return future

    def close(self) -> None:
        """Stop the workers after the chunk each is at; what is unfinished fails; dram is freed."""
        with self._lock:
            self._closing.set()
        for _ in self._threads:
            self._submit(_LAST, None)
        for thread in self._threads:
            thread.join()
        self.dram.close()

    def _submit(self, priority: int, job: Callable[[], None] | None) -> None:
        self._jobs.put((priority, next(self._order), job))

    def _submit_chunks(self, load: _Load, priority: Priority) -> None:
        """Under the lock: queue what nobody has begun to read, perhaps again; who comes second to a chunk skips it."""
        load.priority = priority
        for chunk in sorted(load.unread):
            self._submit(priority, lambda chunk=chunk: self._fetch_chunk(load, chunk))  # type: ignore[misc]

    def _work(self) -> None:
        """Take jobs until told to stop; those left over when the stack closes fail at once."""
        while (job := self._jobs.get()[2]) is not None:
            job()

    def _fetch_chunk(self, load: _Load, chunk: int) -> None:
        with self._lock:
            if chunk not in load.unread:
                return
            load.unread.remove(chunk)
        error = load.error
        if error is None:
            try:
                if self._closing.is_set():
                    raise _closed()
                self._read_verified(load, chunk)
            except StorageError as caught:
                error = caught
        with self._lock:
            load.chunks_left -= 1
            waiters = self._settle(load, error)
        for waiter, result in waiters:
            if isinstance(result, StorageError):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)

    def _settle(self, load: _Load, error: StorageError | None) -> list[tuple[Future[Loaded], Loaded | StorageError]]:
        """Under the lock: who is to be told what, after a chunk came or failed."""
        told: list[tuple[Future[Loaded], Loaded | StorageError]] = []
        if error is not None and load.error is None:
            load.error = error
            told = [(waiter, error) for waiter in load.waiters]
            load.waiters.clear()
        if load.chunks_left:
            return told
        digest = load.unit.digest
        self._loads.pop(digest, None)
        if load.error is not None:
            self.dram.abandon(digest)
            return told + [(waiter, load.error) for waiter in load.waiters]
        self.dram.commit(digest)
        loaded = Loaded(load.unit, load.segment, load.source, load.started_s, self._clock())
        for _ in load.waiters:
            self.dram.acquire(digest)
        if load.source == "remote":
            self._write_behind(load)
        else:
            self.dram.release(digest)
        return [(waiter, loaded) for waiter in load.waiters]

    def _write_behind(self, load: _Load) -> None:
        """Keep the load's own pin until the unit is on ssd."""

        def done(future: Future[None]) -> None:
            self.dram.release(load.unit.digest)
            if (error := future.exception()) is not None and not self._closing.is_set():
                _log.warning("unit %s of %s was not kept on ssd: %s", load.unit.name, load.model, error)

        self.keep_on_ssd(load.unit, load.segment).add_done_callback(done)

    def _read_verified(self, load: _Load, chunk: int) -> None:
        """Read one chunk from the load's source; what is bad on ssd is dropped there and read from the remote tier."""
        unit, at = load.unit, chunk * load.unit.layout.chunk_bytes
        if load.source == "ssd":
            try:
                self._copy(load, chunk, LOCAL_PIECE_BYTES, lambda o, view: self.ssd.read_into(unit.digest, at + o, view))
                return
            except StorageError as error:
                _log.warning("unit %s of %s on ssd is bad (%s); reading it again", unit.name, load.model, error)
                self.ssd.drop(unit.digest)
                load.source = "remote"
        objects, key = self.models.objects, self.models.unit_key(load.model, unit)
        backoff_s = FIRST_BACKOFF_S
        for attempt in range(1, REMOTE_ATTEMPTS + 1):
            try:
                self._copy(load, chunk, objects.piece_bytes, lambda o, view: objects.read_into(key, at + o, view))
                return
            except (Corrupt, StoreUnavailable) as error:
                if attempt == REMOTE_ATTEMPTS or self._closing.wait(backoff_s):
                    raise
                _log.warning("chunk %d of %s: %s; trying again in %.2f s", chunk, key, error, backoff_s)
                backoff_s *= 2

    def _copy(
        self, load: _Load, chunk: int, piece_bytes: int | None, read_into: Callable[[int, memoryview], None]
    ) -> None:
        """One chunk into dram, piece by piece through this thread's buffer: checked while it is still in the cache."""
        size = load.unit.layout.chunk_bytes
        piece = min(piece_bytes or size, size)
        buffer = memoryview(self._buffer(piece))[:piece]
        checksum = 0
        for start in range(0, size, piece):
            part = buffer[: min(piece, size - start)]
            read_into(start, part)
            checksum = crc32c.crc32c(part, checksum)
            load.segment.write(chunk * size + start, part)
        expected = load.unit.chunk_crc32c[chunk]
        if checksum != expected:
            raise Corrupt(f"unit {load.unit.name}: chunk {chunk} has crc32c {checksum:08x}, not {expected:08x}")

    def _buffer(self, size_bytes: int) -> bytearray:
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size_bytes:
            buffer = self._local.buffer = bytearray(size_bytes)
        return buffer
