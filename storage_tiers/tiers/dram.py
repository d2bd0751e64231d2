"""The dram tier: units in memory that the agent holds by descriptor and any stage process maps without a copy."""

import threading
from dataclasses import dataclass, field
from functools import cached_property

from storage_tiers.checkpoint import ALIGN_BYTES, UnitIndex
from storage_tiers.errors import OutOfSpace
from storage_tiers.tiers.shared_memory import BLOCK_BYTES, BlockPool, Pages, Run, map_runs
from storage_tiers.tiers.tier import Ranking, least_recently_used


class Segment:
    """Memory of one unit: runs of a pool, which others map by the pool's `fd`, for reading alone."""

    def __init__(self, pool: BlockPool, size_bytes: int) -> None:
        self._pool = pool
        self.size_bytes = size_bytes
        self.runs: tuple[Run, ...] = pool.allocate(size_bytes)

    @property
    def fd(self) -> int:
        return self._pool.read_only_fd

    @property
    def footprint_bytes(self) -> int:
        """What the unit takes of the pool."""
        return sum(run.size_bytes for run in self.runs)

    def views(self, offset_bytes: int = 0, size_bytes: int | None = None) -> list[memoryview]:
        """Writable views of the unit's bytes, here in the process that holds the pool."""
        wanted = self.size_bytes - offset_bytes if size_bytes is None else size_bytes
        return self._pool.views(self.runs, offset_bytes, wanted)

    @cached_property
    def view(self) -> memoryview:
        """The unit's bytes in one row, for reading while the unit is pinned."""
        return memoryview(map_runs(self.fd, self.runs)).cast("B")[: self.size_bytes].toreadonly()

    def close(self) -> None:
        """Give the memory back to the pool."""
        runs, self.runs = self.runs, ()
        self._pool.free(runs)


@dataclass
class _Slot:
    segment: Segment
    complete: bool = False
    pins: int = 0
    last_used: int = field(default=0)


SMALL_BUDGET_BYTES = 64 << 20
"""Below this a tier is cut into small blocks, so that it is not all rounding."""


class DramTier:
    """Units of this node in memory, by digest, within a budget in bytes (in whole blocks). Thread-safe.

    `ready_bytes` of free memory are kept real ahead of their use; see storage_tiers.tiers.shared_memory. `pool` is all of it.

    A unit is reserved (room is made, the memory belongs to its writer), then committed or abandoned. Only committed
    units are handed out; a pinned unit is never evicted.
    """

    name = "dram"

    def __init__(self, budget_bytes: int, ready_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        block_bytes = BLOCK_BYTES if budget_bytes >= SMALL_BUDGET_BYTES else ALIGN_BYTES
        self.pool = BlockPool(budget_bytes, ready_bytes, block_bytes)
        self._rank: Ranking = least_recently_used
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()
        self._used = 0
        self._uses = 0

    @property
    def huge(self) -> bool:
        """Whether the memory is made of huge pages."""
        return self.pool.pages is not Pages.SMALL

    @property
    def ready_bytes(self) -> int:
        """Free memory that is real already."""
        return self.pool.ready_bytes

    @property
    def used_bytes(self) -> int:
        return self._used

    def holds(self, unit: UnitIndex) -> bool:
        """Whether the unit is here, complete and with its length."""
        with self._lock:
            slot = self._slots.get(unit.digest)
            return slot is not None and slot.complete and slot.segment.size_bytes == unit.size_bytes

    def held(self) -> frozenset[str]:
        """Digests of the complete units."""
        with self._lock:
            return frozenset(digest for digest, slot in self._slots.items() if slot.complete)

    def retain(self, rank: Ranking) -> None:
        """The least by `rank` is evicted first from now on."""
        with self._lock:
            self._rank = rank

    @property
    def uses(self) -> int:
        """The order of the latest use."""
        return self._uses

    def touch(self, digest: str) -> None:
        """It is used now, if it is here."""
        if self.acquire(digest) is not None:
            self.release(digest)

    def reserve(self, digest: str, size_bytes: int, *, humble_since: int | None = None) -> Segment:
        """Memory to write a unit into, pinned until commit's matching `release` or `abandon`.

        Evicts what is not in use, the least first; with `humble_since`, which is an order of use, only what ranks below the
        unit itself and was not used later. OutOfSpace if that is not enough, ValueError if already there.
        """
        with self._lock:
            if digest in self._slots:
                raise ValueError(f"unit {digest} is already in dram")
            self._make_room(digest, size_bytes, humble_since)
            segment = Segment(self.pool, size_bytes)
            self._uses += 1
            self._slots[digest] = _Slot(segment, pins=1, last_used=self._uses)
            self._used += segment.footprint_bytes
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

    def pins(self, digest: str) -> int:
        """How often the unit is pinned now; 0 if it is not here."""
        with self._lock:
            slot = self._slots.get(digest)
            return slot.pins if slot is not None else 0

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
        self.pool.close()

    def _make_room(self, digest: str, size_bytes: int, humble_since: int | None) -> None:
        """Evict until `size_bytes` fit; nothing is evicted if that cannot be reached."""
        needed = -(-size_bytes // self.pool.block_bytes) * self.pool.block_bytes
        idle = {digest: slot for digest, slot in self._slots.items() if slot.complete and not slot.pins}
        in_use = self._used - sum(slot.segment.footprint_bytes for slot in idle.values())
        if in_use + needed > self.pool.size_bytes:
            raise OutOfSpace(
                f"dram: {size_bytes:,} bytes asked, {in_use:,} of {self.budget_bytes:,} are in use; "
                "raise node.dram_bytes or serve fewer models at once"
            )
        over_bytes, going = self._used + needed - self.pool.size_bytes, list[str]()
        ranked = (
            sorted((self._rank(held, slot.last_used), held) for held, slot in idle.items()) if over_bytes > 0 else []
        )
        own = self._rank(digest, self._uses + 1)
        for worth, held in ranked:
            if over_bytes <= 0:
                break
            if humble_since is None or (worth < own and idle[held].last_used <= humble_since):
                going.append(held)
                over_bytes -= idle[held].segment.footprint_bytes
        if over_bytes > 0:
            raise OutOfSpace(
                f"dram: {size_bytes:,} bytes asked, what could go for them is worth more there, or was used meanwhile"
            )
        for held in going:
            self._drop(held)

    def _drop(self, digest: str) -> None:
        slot = self._slots.pop(digest)
        self._used -= slot.segment.footprint_bytes
        slot.segment.close()
