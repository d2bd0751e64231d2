"""A node of the world: what is in its tiers, what is reserved there, and what its next report has to tell."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from schedules.estimates import Speeds, speeds_of
from schedules.events import NodeReported
from schedules.facts import Node, Unit
from schedules.systems.system import Keeps

KEEPS = Keeps()


class WorldNode:
    """Begins with what `facts` say, and is as fast as they say. ValueError if they leave out a speed.

    What comes to its dram is on its ssd as well, at once and for nothing. Of each tier the unit that was brought or used
    longest ago makes room; one in use stays in dram, if need be beyond the budget. If it is `terse` what it says of its units
    is good until it says more, for thousands of them need not be copied then.
    """

    def __init__(
        self, facts: Node, size_bytes: Mapping[str, int], keeps: Keeps = KEEPS, *, terse: bool = False
    ) -> None:
        speeds = speeds_of(facts.rates, bad=False)
        if speeds is None:
            raise ValueError(f"nothing says how fast node {facts.name} is")
        self.speeds: Speeds = speeds
        self.reserved: dict[str, int] = {}
        self.coming: dict[str, str] = {}
        """Names of the loads that bring units, by digest."""
        self.gone = False
        self.silent_since_s: float | None = None
        self.draining, self.drains = False, 0
        self._facts, self._terse = facts, terse
        self._dram, self._ssd = _Held(facts.dram_bytes * keeps.dram), _Held(facts.ssd_bytes * keeps.ssd)
        self._users: dict[str, tuple[str, ...]] = {}
        self._used: Counter[str] = Counter()
        self._told: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        """Units that may lie elsewhere than was told."""
        self._now: Node | None = None
        for digest, tier in facts.units.items():
            if tier == "dram":
                self._dram.put(digest, size_bytes.get(digest, 0))
            self._ssd.put(digest, size_bytes.get(digest, 0))
            self._changed[digest] = None

    @property
    def name(self) -> str:
        return self._facts.name

    @property
    def answers(self) -> bool:
        """Whether it does anything at all."""
        return not self.gone and self.silent_since_s is None

    @property
    def free_bytes(self) -> int:
        """Device memory that nobody has reserved."""
        return self._facts.device_bytes - self.reserved_bytes

    @property
    def reserved_bytes(self) -> int:
        """Device memory that groups have reserved."""
        return sum(self.reserved.values())

    @property
    def dram_used_bytes(self) -> int:
        """What units take in its dram."""
        return self._dram.used_bytes

    @property
    def ssd_link(self) -> str:
        """Its ssd, which those of one machine share."""
        return f"ssd:{self._facts.shared_with}"

    def tier(self, digest: str) -> str | None:
        """The fastest tier that holds the unit."""
        return "dram" if digest in self._dram.sizes else "ssd" if digest in self._ssd.sizes else None

    def bring(self, units: Iterable[Unit], tier: str = "dram") -> None:
        """They are in the tier now."""
        for unit in units:
            if tier == "dram":
                self._dram.put(unit.digest, unit.size_bytes)
            self._ssd.put(unit.digest, unit.size_bytes)
            self._changed[unit.digest] = None
            self.coming.pop(unit.digest, None)
        self._changed |= dict.fromkeys(self._ssd.trim({}))
        self._changed |= dict.fromkeys(self._dram.trim(self._used))
        self._now = None

    def use(self, group: str, digests: tuple[str, ...], reserve_bytes: int) -> None:
        """The group runs on them here."""
        self.reserved[group], self._users[group] = reserve_bytes, digests
        self._now = None
        self._used.update(digests)
        for digest in digests:
            self._dram.touch(digest)

    def release(self, group: str) -> None:
        """Nothing of the group is here any more. Twice is once."""
        self.reserved.pop(group, None)
        self._used.subtract(self._users.pop(group, ()))
        self._used += Counter()  # those in use alone
        self._changed |= dict.fromkeys(self._dram.trim(self._used))
        self._now = None

    def evict(self, digests: Iterable[str]) -> None:
        """Drop units from both tiers; those in use stay in dram."""
        for digest in digests:
            self._ssd.drop(digest)
            if digest not in self._used:
                self._dram.drop(digest)
            self._changed[digest] = None
        self._now = None

    def drain(self) -> None:
        """It takes nothing new, and says so."""
        self.draining, self._now = True, None
        self.drains += 1

    def end(self) -> None:
        """Its processes are gone; its ssd stays."""
        self.gone, self.silent_since_s = True, None
        self._changed |= dict.fromkeys(self._dram.sizes)
        self._dram.clear()
        self.coming.clear()
        for group in list(self.reserved):
            self.release(group)

    def begin(self) -> None:
        """It is there, and nobody has heard of it yet."""
        self.draining &= not self.gone
        self.gone, self.silent_since_s, self._told, self._now = False, None, {}, None
        self._changed = dict.fromkeys([*self._ssd.sizes, *self._dram.sizes])

    def report(self) -> NodeReported:
        """Itself, and what is other than in the report before."""
        if self._now is not None:
            return NodeReported(self._now, {})
        gained, lost = dict[str, str](), list[str]()
        for digest in self._changed:
            tier, told = self.tier(digest), self._told.get(digest)
            if tier is None and told is not None:
                del self._told[digest]
                lost.append(digest)
            elif tier is not None and tier != told:
                self._told[digest] = gained[digest] = tier
        self._changed.clear()
        self._now = replace(
            self._facts,
            dram_used_bytes=self.dram_used_bytes,
            ssd_used_bytes=self._ssd.used_bytes,
            device_reserved_bytes=self.reserved_bytes,
            busy_stage_processes=len(self.reserved),
            groups=tuple(self.reserved),
            draining=self.draining,
            units=self._told if self._terse else self._told.copy(),
        )
        return NodeReported(self._now, gained, tuple(lost))


class _Held:
    """Units in a tier with their `sizes`, those first that were brought or used longest ago."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self.sizes: dict[str, int] = {}
        self.used_bytes = 0

    def put(self, digest: str, size_bytes: int) -> None:
        """It is there, and the last."""
        self.drop(digest)
        self.sizes[digest] = size_bytes
        self.used_bytes += size_bytes

    def touch(self, digest: str) -> None:
        """It is the last, if it is there."""
        if digest in self.sizes:
            self.sizes[digest] = self.sizes.pop(digest)

    def drop(self, digest: str) -> None:
        """It is not there."""
        self.used_bytes -= self.sizes.pop(digest, 0)

    def clear(self) -> None:
        """Nothing is there."""
        self.sizes.clear()
        self.used_bytes = 0

    def trim(self, in_use: Mapping[str, int]) -> list[str]:
        """Who goes, so that the rest is within the budget; nobody who is in use."""
        gone, over_bytes = list[str](), self.used_bytes - self._budget_bytes
        for digest in self.sizes if over_bytes > 0 else ():
            if over_bytes <= 0:
                break
            if digest not in in_use:
                gone.append(digest)
                over_bytes -= self.sizes[digest]
        for digest in gone:
            self.drop(digest)
        return gone
