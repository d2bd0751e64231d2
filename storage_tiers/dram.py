"""The dram tier: units in memory that the agent holds by descriptor and any stage process maps without a copy.

Each unit lives in a memfd of its own: the kernel frees it with its last holder, so a killed agent leaks nothing.
"""

import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from storage_tiers.errors import OutOfSpace


class Segment:
    """Memory of one unit. It is written by descriptor, which spares a page fault and a zeroing for every 4 KiB."""

    def __init__(self, size_bytes: int, name: str) -> None:
        self.size_bytes = size_bytes
        self.fd = os.memfd_create(f"firsttoken-{name[:40]}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size_bytes)
        except BaseException:
            os.close(self.fd)
            raise

    def write(self, offset_bytes: int, data: memoryview) -> None:
        """Put `data` at `offset_bytes`. OutOfSpace if the machine has no memory left."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.fd, data[done:], offset_bytes + done)
            except OSError as error:
                raise OutOfSpace(f"dram: {error.strerror}") from error

    @cached_property
    def view(self) -> memoryview:
        """The whole unit, mapped. The mapping lives as long as anything refers to it, also after `close`."""
        return memoryview(mmap.mmap(self.fd, self.size_bytes))

    def close(self) -> None:
        """Give up this process's descriptor; mappings stay valid."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass
class _Slot:
    segment: Segment
    complete: bool = False
    pins: int = 0
    last_used: int = field(default=0)


Rank = Callable[[str, int], float]
"""Worth of keeping a unit: (digest, order of last use, larger is later) -> number; the least is evicted first."""


def least_recently_used(_digest: str, last_used: int) -> float:
    """The default rank."""
    return float(last_used)


class DramTier:
    """Units of this node in memory, by digest, within a budget in bytes. Thread-safe.

    A unit is reserved (room is made, the memory belongs to its writer), then committed or abandoned. Only committed
    units are handed out; a pinned unit is never evicted.
    """

    def __init__(self, budget_bytes: int, rank: Rank = least_recently_used) -> None:
        self.budget_bytes = budget_bytes
        self._rank = rank
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()
        self._used = 0
        self._uses = 0

    @property
    def used_bytes(self) -> int:
        return self._used

    def held(self) -> frozenset[str]:
        """Digests of the complete units."""
        with self._lock:
            return frozenset(digest for digest, slot in self._slots.items() if slot.complete)

    def reserve(self, digest: str, size_bytes: int) -> Segment:
        """Memory to write a unit into, pinned until commit's matching `release` or `abandon`.

        Evicts what is not in use, least rank first. OutOfSpace if that is not enough, ValueError if already there.
        """
        with self._lock:
            if digest in self._slots:
                raise ValueError(f"unit {digest} is already in dram")
            self._make_room(size_bytes)
            try:
                segment = Segment(size_bytes, digest)
            except OSError as error:  # no memory, or no descriptor: each unit needs one
                raise OutOfSpace(f"dram: {size_bytes:,} bytes asked: {error.strerror}") from error
            self._uses += 1
            self._slots[digest] = _Slot(segment, pins=1, last_used=self._uses)
            self._used += size_bytes
            return segment

    def commit(self, digest: str) -> None:
        """The reserved unit is whole and verified; it may be handed out from now on."""
        with self._lock:
            self._slots[digest].complete = True

    def abandon(self, digest: str) -> None:
        """Free a reserved unit that could not be filled."""
        with self._lock:
            self._drop(digest)

    def acquire(self, digest: str) -> Segment | None:
        """The unit's memory, pinned, or None if it is not (wholly) there. Pair with `release`."""
        with self._lock:
            slot = self._slots.get(digest)
            if slot is None or not slot.complete:
                return None
            self._uses += 1
            slot.pins, slot.last_used = slot.pins + 1, self._uses
            return slot.segment

    def release(self, digest: str) -> None:
        """Undo one pin."""
        with self._lock:
            slot = self._slots[digest]
            if slot.pins == 0:
                raise ValueError(f"unit {digest} is not pinned")
            slot.pins -= 1

    def drop(self, digest: str) -> bool:
        """Free the unit unless it is in use; whether it was freed."""
        with self._lock:
            slot = self._slots.get(digest)
            if slot is None or slot.pins or not slot.complete:
                return False
            self._drop(digest)
            return True

    def close(self) -> None:
        """Free everything. Nothing may be loading."""
        with self._lock:
            for digest in list(self._slots):
                self._drop(digest)

    def _make_room(self, size_bytes: int) -> None:
        idle = [(self._rank(d, s.last_used), d) for d, s in self._slots.items() if s.complete and not s.pins]
        evictable = sum(self._slots[digest].segment.size_bytes for _, digest in idle)
        if self._used - evictable + size_bytes > self.budget_bytes:
            in_use = self._used - evictable
            raise OutOfSpace(
                f"dram: {size_bytes:,} bytes asked, {in_use:,} of {self.budget_bytes:,} are in use; "
                "raise node.dram_bytes or serve fewer models at once"
            )
        for _, digest in sorted(idle):
            if self._used + size_bytes <= self.budget_bytes:
                return
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        slot = self._slots.pop(digest)
        self._used -= slot.segment.size_bytes
        slot.segment.close()
