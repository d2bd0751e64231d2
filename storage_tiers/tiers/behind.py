"""Writes from dram to ssd that wait behind everything else, each holding its unit in dram until it is done."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import StorageError
from storage_tiers.tiers.dram import DramTier, Segment
from storage_tiers.tiers.ssd import SsdTier

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Write:
    unit: UnitIndex
    segment: Segment
    waiters: list[Future[None]] = field(default_factory=list)
    unasked: bool = False
    begun: bool = False


class WriteBehind:
    """One write per unit, however many want it. `submit` runs a job later; `on_freed` is called after each write.

    A write that nobody waits for is given up where its unit's memory is needed. Why writes fail is told once, until one
    as large has succeeded. Thread-safe.
    """

    def __init__(
        self,
        dram: DramTier,
        ssd: SsdTier,
        submit: Callable[[Callable[[], None]], None],
        on_freed: Callable[[], None],
        closing: threading.Event,
    ) -> None:
        self._dram, self._ssd = dram, ssd
        self._submit, self._on_freed, self._closing = submit, on_freed, closing
        self._lock = threading.Lock()
        self._writes: dict[str, _Write] = {}
        self._told: dict[str, int] = {}

    def add(self, unit: UnitIndex, segment: Segment, waiter: Future[None] | None = None) -> None:
        """Write a unit that the caller holds in dram; `waiter` is told when it is on ssd and held for that no more."""
        with self._lock:
            write = self._writes.get(unit.digest)
            if write is None:
                self._dram.acquire(unit.digest)
                write = self._writes[unit.digest] = _Write(unit, segment)
                self._submit(lambda: self._run(write))
            if waiter is not None:
                write.waiters.append(waiter)
            else:
                write.unasked = True

    def give_up(self, waiter: Future[None]) -> bool:
        """Nobody waits with this future any more, which fails if it is not done; whether that has ended a write, of which
        `on_freed` does not hear."""
        with self._lock:
            write = next((write for write in self._writes.values() if waiter in write.waiters), None)
            if write is None:
                return False
            write.waiters.remove(waiter)
            ended = not (write.waiters or write.unasked or write.begun)
            if ended:
                self._end(write)
        waiter.set_exception(StorageError(f"keeping unit {write.unit.name} on ssd was given up"))
        return ended

    def frees_memory(self) -> bool:
        """Whether a write is all that holds some unit. If so, `on_freed` has not been called for it yet."""
        with self._lock:
            return any(self._dram.pins(digest) == 1 for digest in self._writes)

    def give_up_one(self) -> bool:
        """Forget a write that has not begun, if it is all that holds its unit; whether there was one."""
        with self._lock:
            for digest, write in self._writes.items():
                if not write.begun and not write.waiters and self._dram.pins(digest) == 1:
                    _log.info("unit %s is not kept on ssd: its memory is needed", write.unit.name)
                    self._end(write)
                    return True
            return False

    def _run(self, write: _Write) -> None:
        with self._lock:
            if self._writes.get(write.unit.digest) is not write:
                return
            write.begun = True
        error = self._failure(write)
        with self._lock:
            self._end(write)
        for waiter in write.waiters:  # no more come, and none goes
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        if not self._closing.is_set():
            self._tell(write, error)
        self._on_freed()

    def _failure(self, write: _Write) -> StorageError | None:
        """Write, and say what went wrong."""
        if self._closing.is_set():
            return StorageError("the node is shutting down")
        try:
            self._ssd.write(write.unit.digest, write.segment.views())
        except StorageError as error:
            return error
        except Exception as error:  # whatever the tier did wrong, those who wait must hear of it
            _log.exception("unit %s", write.unit.name)
            return StorageError(f"unit {write.unit.name} cannot be written to ssd: {error!r}")
        return None

    def _tell(self, write: _Write, error: StorageError | None) -> None:
        """A disk that is full or read-only fails for every unit of every model: the log need not say so each time."""
        size_bytes = write.unit.size_bytes
        with self._lock:
            if error is None:
                self._told = {cause: failed for cause, failed in self._told.items() if failed > size_bytes}
                return
            if write.waiters:
                return
            known = str(error) in self._told
            self._told[str(error)] = min(size_bytes, self._told.get(str(error), size_bytes))
        if not known:
            _log.warning("unit %s is not kept on ssd: %s; others may not be either", write.unit.name, error)

    def _end(self, write: _Write) -> None:
        """Under the lock: memory and account change together."""
        del self._writes[write.unit.digest]
        with suppress(KeyError):  # dram was closed
            self._dram.release(write.unit.digest)
