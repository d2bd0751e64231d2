"""A node of the world: what is in its tiers, what is reserved there, and what its next report has to tell."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from schedules.estimates import Speeds, speeds_of
from schedules.events import NodeReported
from schedules.facts import Node, Rate, Unit
from schedules.foresight.retention import Retention
from schedules.systems.system import Keeps

KEEPS = Keeps()


class Held:
    """Units in a tier with their `sizes`, those first that were brought or used longest ago. These go first, too, unless
    there is a `retention` that ranks them."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self.retention: Retention | None = None
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
        for digest in self._ranked if over_bytes > 0 else ():
            if over_bytes <= 0:
                break
            if digest not in in_use:
                gone.append(digest)
                over_bytes -= self.sizes[digest]
        for digest in gone:
            self.drop(digest)
        return gone

    @property
    def _ranked(self) -> Iterable[str]:
        """Who goes first."""
        retention = self.retention
        if retention is None:
            return self.sizes
        worth, otherwise = retention.worth, retention.otherwise
        return sorted(self.sizes, key=lambda digest: worth.get(digest, otherwise))  # of equals in the order of use


class Tiers:
    """What is in the dram and on the ssd of the nodes of one box, or of one node.

    What comes to dram is on ssd as well, at once and for nothing. Of each tier the unit that was brought or used longest ago
    makes room, or the one that is worth least, even one that has just come; one in use stays in dram, if need be beyond the
    budget.
    """

    def __init__(self, dram_bytes: int, ssd_bytes: int, keeps: Keeps = KEEPS) -> None:
        self.dram, self.ssd = Held(dram_bytes * keeps.dram), Held(ssd_bytes * keeps.ssd)
        self.coming: dict[str, str] = {}
        """Names of the loads that bring units, by digest."""
        self.up: set[str] = set()
        """Names of the nodes that are there."""
        self.changes = 0
        self._used: Counter[str] = Counter()
        self._watching: list[dict[str, None]] = []
        self._all, self._passing = keeps.of_pipelines, set[str]()

    def tier(self, digest: str) -> str | None:
        """The fastest that holds the unit."""
        return "dram" if digest in self.dram.sizes else "ssd" if digest in self.ssd.sizes else None

    def watch(self) -> dict[str, None]:
        """The units that may lie elsewhere from now on; whoever watches clears it."""
        self._watching.append({})
        return self._watching[-1]

    def put(self, digest: str, size_bytes: int, tier: str) -> None:
        """It is in the tier, and on ssd."""
        if tier == "dram":
            self.dram.put(digest, size_bytes)
        self.ssd.put(digest, size_bytes)
        self._note((digest,))

    def _note(self, digests: Iterable[str]) -> None:
        for changed in self._watching:
            changed.update(dict.fromkeys(digests))

    def bring(self, units: Iterable[Unit], tier: str) -> None:
        """They are in the tier now."""
        for unit in units:
            self.put(unit.digest, unit.size_bytes, tier)
            self.coming.pop(unit.digest, None)
        self._note([*self.ssd.trim({}), *self.dram.trim(self._used)])
        self.changes += 1

    def use(self, digests: Collection[str], *, passing: bool) -> None:
        """One more group runs on them, for whose sake nobody keeps them in dram if they are `passing`."""
        if not self._all:
            self._passing.difference_update(() if passing else digests)
            self._passing.update([digest for digest in digests if passing and digest not in self.dram.sizes])
        self._used.update(digests)
        for digest in digests:
            self.dram.touch(digest)
        self.changes += 1

    def release(self, digests: Iterable[str]) -> None:
        """One group less does."""
        self._used.subtract(digests)
        self._used += Counter()  # those in use alone
        for digest in self._passing.intersection(digests).difference(self._used) if self._passing else ():
            self.dram.drop(digest)
            self._passing.remove(digest)
            self._note((digest,))
        self._note(self.dram.trim(self._used))
        self.changes += 1

    def retain(self, dram: Retention, ssd: Retention) -> None:
        """Who makes room from now on."""
        self.dram.retention, self.ssd.retention = dram, ssd

    def evict(self, digests: Iterable[str]) -> None:
        """Those in use stay in dram."""
        for digest in digests:
            self.ssd.drop(digest)
            if digest not in self._used:
                self.dram.drop(digest)
            self._note((digest,))
        self.changes += 1

    def leave(self, node: str) -> None:
        """What is in dram goes with the last of its nodes."""
        self.up.discard(node)
        if not self.up:
            self._note(list(self.dram.sizes))
            self.dram.clear()
            self.coming.clear()
        self.changes += 1


class WorldNode:
    """Begins with what `facts` say, and is as fast as `rates` say, or they. ValueError if those leave out a speed. Without
    `tiers` it has its own. If it is `terse` what it says of its units is good until it says more, for thousands of them need
    not be copied then."""

    def __init__(
        self,
        facts: Node,
        size_bytes: Mapping[str, int],
        keeps: Keeps = KEEPS,
        tiers: Tiers | None = None,
        rates: Mapping[str, Rate] | None = None,
        *,
        terse: bool = False,
    ) -> None:
        speeds = speeds_of(facts.rates if rates is None else rates, bad=False)
        if speeds is None:
            raise ValueError(f"nothing says how fast node {facts.name} is")
        self.speeds: Speeds = speeds
        self.reserved: dict[str, int] = {}
        self.gone = False
        self.silent_since_s: float | None = None
        self.draining, self.drains = False, 0
        self._facts, self._terse = facts, terse
        self._tiers = Tiers(facts.dram_bytes, facts.ssd_bytes, keeps) if tiers is None else tiers
        self._tiers.up.add(facts.name)
        self._grown: dict[str, tuple[str, int]] = {}
        """Who grows in whose place, and what of it is reserved by the one before."""
        self._users: dict[str, tuple[str, ...]] = {}
        self._told: dict[str, str] = {}
        self._changed = self._tiers.watch()
        self._now: Node | None = None
        self._as_of = -1
        for digest, tier in facts.units.items():
            self._tiers.put(digest, size_bytes.get(digest, 0), tier)

    @property
    def name(self) -> str:
        return self._facts.name

    @property
    def card(self) -> str:
        """See Node."""
        return self._facts.card

    @property
    def coming(self) -> dict[str, str]:
        """Names of the loads that bring units, by digest."""
        return self._tiers.coming

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
    def gives(self) -> bool:
        """Whether others can get units from it."""
        return self.answers and bool(self._facts.peer_port)

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
        return self._tiers.dram.used_bytes

    @property
    def ssd_link(self) -> str:
        """Its ssd, which those of one machine share."""
        return f"ssd:{self._facts.shared_with}"

    def tier(self, digest: str) -> str | None:
        """The fastest tier that holds the unit."""
        return self._tiers.tier(digest)

    def bring(self, units: Iterable[Unit], tier: str = "dram") -> None:
        """They are in the tier now."""
        self._tiers.bring(units, tier)

    def use(
        self, group: str, digests: tuple[str, ...], reserve_bytes: int, *, passing: bool = False, in_place_of: str = ""
    ) -> None:
        """The group runs on them here. They are `passing` if nobody keeps them for its sake. What the group that it grows
        `in_place_of` has reserved it has, too."""
        had_bytes = min(self.reserved.get(in_place_of, 0), reserve_bytes)
        self.reserved[group], self._users[group] = reserve_bytes - had_bytes, digests
        if had_bytes:
            self._grown[in_place_of] = group, had_bytes
        self._now = None
        self._tiers.use(digests, passing=passing)

    def release(self, group: str) -> None:
        """Nothing of the group is here any more. Twice is once."""
        self.reserved.pop(group, None)
        follows, had_bytes = self._grown.pop(group, ("", 0))
        if follows in self.reserved:
            self.reserved[follows] += had_bytes
        self._tiers.release(self._users.pop(group, ()))
        self._now = None

    def evict(self, digests: Iterable[str]) -> None:
        """Drop units from both tiers; those in use stay in dram."""
        self._tiers.evict(digests)

    def retain(self, dram: Retention, ssd: Retention) -> None:
        """Who makes room in its tiers from now on."""
        self._tiers.retain(dram, ssd)

    def drain(self) -> None:
        """It takes nothing new, and says so."""
        self.draining, self._now = True, None
        self.drains += 1

    def end(self) -> None:
        """Its processes are gone; its ssd stays."""
        self.gone, self.silent_since_s = True, None
        self._tiers.leave(self.name)
        for group in list(self.reserved):
            self.release(group)

    def begin(self) -> None:
        """It is there, and nobody has heard of it yet."""
        self.draining &= not self.gone
        self._tiers.up.add(self.name)
        self.gone, self.silent_since_s, self._told, self._now = False, None, {}, None
        self._changed.update(dict.fromkeys([*self._tiers.ssd.sizes, *self._tiers.dram.sizes]))

    def report(self) -> NodeReported:
        """Itself, and what is other than in the report before."""
        tiers = self._tiers
        if self._now is not None and self._as_of == tiers.changes:
            return NodeReported(self._now, {})
        gained, lost = dict[str, str](), list[str]()
        for digest in self._changed:
            tier, told = tiers.tier(digest), self._told.get(digest)
            if tier is None and told is not None:
                del self._told[digest]
                lost.append(digest)
            elif tier is not None and tier != told:
                self._told[digest] = gained[digest] = tier
        self._changed.clear()
        self._as_of = tiers.changes
        self._now = self._with(self._told if self._terse else self._told.copy())
        return NodeReported(self._now, gained, tuple(lost))

    def as_it_is(self) -> Node:
        """What a report would say of it, to somebody who has heard of none."""
        tiers = self._tiers
        return self._with(dict.fromkeys(tiers.ssd.sizes, "ssd") | dict.fromkeys(tiers.dram.sizes, "dram"))

    def _with(self, units: Mapping[str, str]) -> Node:
        return replace(
            self._facts,
            dram_used_bytes=self.dram_used_bytes,
            ssd_used_bytes=self._tiers.ssd.used_bytes,
            device_reserved_bytes=self.reserved_bytes,
            busy_stage_processes=len(self.reserved),
            groups=tuple(self.reserved),
            draining=self.draining,
            units=units,
        )
