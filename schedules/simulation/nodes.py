"""A node of the world: what is in its tiers, what is reserved there, and what its next report has to tell."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from schedules.estimates import Speeds, speeds_of
from schedules.events import NodeReported
from schedules.facts import Node, Rate, Unit
from schedules.systems.system import Keeps

KEEPS = Keeps()


class WorldNode:
    """Begins with what `facts` say, and is as fast as `rates` say, or they. ValueError if those leave out a speed.

    What comes to its dram is on its ssd as well, at once and for nothing. Of each tier the unit that was brought or used
    longest ago makes room; one in use stays in dram, if need be beyond the budget.
    """

    def __init__(
        self,
        facts: Node,
        size_bytes: Mapping[str, int],
        keeps: Keeps = KEEPS,
        rates: Mapping[str, Rate] | None = None,
    ) -> None:
        speeds = speeds_of(facts.rates if rates is None else rates, bad=False)
        if speeds is None:
            raise ValueError(f"nothing says how fast node {facts.name} is")
        self.speeds: Speeds = speeds
        self.reserved: dict[str, int] = {}
        self.coming: dict[str, str] = {}
        """Names of the loads that bring units, by digest."""
        self.gone = False
        self.silent_since_s: float | None = None
        self.draining, self.drains = False, 0
        self._facts = facts
        self._dram_bytes, self._ssd_bytes = facts.dram_bytes * keeps.dram, facts.ssd_bytes * keeps.ssd
        self._dram: dict[str, int] = {}
        self._ssd: dict[str, int] = {}
        self._users: dict[str, tuple[str, ...]] = {}
        self._used: Counter[str] = Counter()
        self._told: Mapping[str, str] = {}
        self._now: Node | None = None
        for digest, tier in facts.units.items():
            if tier == "dram":
                self._dram[digest] = size_bytes.get(digest, 0)
            self._ssd[digest] = size_bytes.get(digest, 0)

    @property
    def name(self) -> str:
        return self._facts.name

    @property
    def machine(self) -> str:
        """What it shares cores with others of."""
        return self._facts.shared_with

    @property
    def on_gpu(self) -> bool:
        """Whether its stages compute on a GPU."""
        return bool(self._facts.gpu)

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
        return sum(self._dram.values())

    @property
    def ssd_link(self) -> str:
        """Its ssd, which those of one machine share."""
        return f"ssd:{self._facts.shared_with}"

    def tier(self, digest: str) -> str | None:
        """The fastest tier that holds the unit."""
        return "dram" if digest in self._dram else "ssd" if digest in self._ssd else None

    def bring(self, units: Iterable[Unit], tier: str = "dram") -> None:
        """They are in the tier now."""
        for unit in units:
            if tier == "dram":
                self._dram.pop(unit.digest, None)
                self._dram[unit.digest] = unit.size_bytes
            self._ssd.pop(unit.digest, None)
            self._ssd[unit.digest] = unit.size_bytes
            self.coming.pop(unit.digest, None)
        _trim(self._ssd, self._ssd_bytes, {})
        _trim(self._dram, self._dram_bytes, self._used)
        self._now = None

    def use(self, group: str, digests: tuple[str, ...], reserve_bytes: int) -> None:
        """The group runs on them here."""
        self.reserved[group], self._users[group] = reserve_bytes, digests
        self._now = None
        self._used.update(digests)
        for digest in digests:
            if digest in self._dram:
                self._dram[digest] = self._dram.pop(digest)

    def release(self, group: str) -> None:
        """Nothing of the group is here any more. Twice is once."""
        self.reserved.pop(group, None)
        self._used.subtract(self._users.pop(group, ()))
        self._used += Counter()  # those in use alone
        _trim(self._dram, self._dram_bytes, self._used)
        self._now = None

    def evict(self, digests: Iterable[str]) -> None:
        """Drop units from both tiers; those in use stay in dram."""
        for digest in digests:
            self._ssd.pop(digest, None)
            if digest not in self._used:
                self._dram.pop(digest, None)
        self._now = None

    def drain(self) -> None:
        """It takes nothing new, and says so."""
        self.draining, self._now = True, None
        self.drains += 1

    def end(self) -> None:
        """Its processes are gone; its ssd stays."""
        self.gone, self.silent_since_s = True, None
        self._dram.clear()
        self.coming.clear()
        for group in list(self.reserved):
            self.release(group)

    def begin(self) -> None:
        """It is there, and nobody has heard of it yet."""
        self.draining &= not self.gone
        self.gone, self.silent_since_s, self._told, self._now = False, None, {}, None

    @property
    def facts(self) -> Node:
        """The node as it is now."""
        if self._now is None:
            self._now = replace(
                self._facts,
                dram_used_bytes=self.dram_used_bytes,
                ssd_used_bytes=sum(self._ssd.values()),
                device_reserved_bytes=self.reserved_bytes,
                busy_stage_processes=len(self.reserved),
                groups=tuple(self.reserved),
                draining=self.draining,
                units={**dict.fromkeys(self._ssd, "ssd"), **dict.fromkeys(self._dram, "dram")},
            )
        return self._now

    def report(self) -> NodeReported:
        """Itself, and what is other than in the report before."""
        facts, told = self.facts, self._told
        self._told = facts.units
        if facts.units is told:
            return NodeReported(facts, {})
        gained = {digest: tier for digest, tier in facts.units.items() if told.get(digest) != tier}
        return NodeReported(facts, gained, tuple(digest for digest in told if digest not in facts.units))


def _trim(held: dict[str, int], budget_bytes: int, in_use: Mapping[str, int]) -> None:
    over_bytes = sum(held.values()) - budget_bytes
    for digest in list(held) if over_bytes > 0 else ():
        if over_bytes > 0 and digest not in in_use:
            over_bytes -= held.pop(digest)
