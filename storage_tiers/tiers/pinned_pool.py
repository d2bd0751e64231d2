"""A node's pool as a process with a GPU has it: mapped once, and pinned piece by piece ahead of what is copied from it.

A GPU reads host memory at the speed of its bus only where the pages are pinned, and pinning a unit when it is copied takes
as long as the copy. So pieces of the pool are pinned, for good, as soon as all their blocks are real; a raw block must not
be, since that would make it real. Where the driver refuses it is asked once.
"""

import ctypes
import logging
import threading
from collections.abc import Iterable, Sequence

import torch

from storage_tiers.tiers.cuda_driver import Driver
from storage_tiers.tiers.shared_memory import PIECE_BYTES, Run, map_runs

_log = logging.getLogger(__name__)


class PinnedPool:
    """The pool of `size_bytes` behind a descriptor, which may be closed then; `bytes` is all of it, for reading.

    Thread-safe. A thread of its own registers pieces, those that are wanted first: whoever waits for one must not have the
    driver's refusal as its own last error, which the next launch of a kernel would report.
    """

    def __init__(self, fd: int, size_bytes: int, driver: Driver, piece_bytes: int = PIECE_BYTES) -> None:
        self.piece_bytes = piece_bytes
        self._memory = map_runs(fd, [Run(0, size_bytes)])
        self._size_bytes, self._driver = size_bytes, driver
        self.bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._condition = threading.Condition()
        self._pending: set[int] = set()
        self._wanted: list[int] = []
        self._registered: set[int] = set()
        self._ahead = True
        self._over = False
        self._thread = threading.Thread(target=self._register, name="pin", daemon=True)
        self._thread.start()

    def hear(self, pieces: Iterable[int]) -> None:
        """These pieces are real, all of them. ValueError if the pool has no such piece."""
        known = set(pieces)
        if known and not 0 <= min(known) <= max(known) <= (self._size_bytes - 1) // self.piece_bytes:
            raise ValueError(f"a pool of {self._size_bytes:,} bytes has no pieces {min(known)} to {max(known)}")
        with self._condition:
            self._pending |= known - self._registered
            self._condition.notify_all()

    def want(self, runs: Sequence[Run]) -> None:
        """Soon these are copied, in this order, behind all that was wanted before."""
        pieces = [piece for run in runs for piece in self._pieces(run)]
        with self._condition:
            self._wanted += [piece for piece in pieces if piece not in self._registered]
            self._condition.notify_all()

    def pin_what_is_wanted(self) -> None:
        """And nothing else from now on: it takes the driver's lock, which this process and others compute with."""
        with self._condition:
            self._ahead = False

    def is_pinned(self, piece: int) -> bool:
        """Whether the piece is pinned, and so for good."""
        with self._condition:
            return piece in self._registered

    def wait(self, piece: int) -> bool:
        """Whether the piece is pinned. If it is real, and the driver does pin, that is waited for."""
        with self._condition:
            if piece in self._pending:
                self._wanted.insert(0, piece)
                self._condition.notify_all()
                self._condition.wait_for(lambda: piece not in self._pending or self._over)
            return piece in self._registered

    def close(self) -> None:
        """Unpin all of it. Nothing may be copied from it any more."""
        with self._condition:
            self._over = True
            self._condition.notify_all()
        self._thread.join()
        while self._registered:
            self._driver.unregister(self._address(self._registered.pop()))

    def _pieces(self, run: Run) -> range:
        return range(run.offset_bytes // self.piece_bytes, -(-(run.offset_bytes + run.size_bytes) // self.piece_bytes))

    def _address(self, piece: int) -> int:
        return ctypes.addressof(self._memory) + piece * self.piece_bytes

    def _register(self) -> None:
        try:
            while (piece := self._next()) is not None:
                size_bytes = min(self.piece_bytes, self._size_bytes - piece * self.piece_bytes)
                fault = self._driver.register(self._address(piece), size_bytes)
                if fault:
                    _log.info("units are not pinned in place, but go through buffers: %s", fault)
                    return
                with self._condition:
                    self._registered.add(piece)
                    self._pending.remove(piece)
                    self._condition.notify_all()
        finally:
            with self._condition:
                self._over = True
                self._condition.notify_all()

    def _next(self) -> int | None:
        """The piece to pin now, once there is one; None at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._over or self._first() is not None)
            return None if self._over else self._first()

    def _first(self) -> int | None:
        self._wanted = [piece for piece in self._wanted if piece not in self._registered]
        wanted = next((piece for piece in self._wanted if piece in self._pending), None)
        return min(self._pending, default=None) if wanted is None and self._ahead else wanted
