"""What is on its way to the nodes of the world: over shared wires, and from ssds that those of one machine share."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count, zip_longest

from schedules.facts import Placement, StagePlan, Unit
from schedules.ledgers.links import Links, nic_link, out_link
from schedules.ledgers.shares import BEHIND, LATER, STAGED, Transfer
from schedules.placing.sources import from_peer, peer_of
from schedules.rates import STORE
from schedules.world.agenda import Agenda
from schedules.world.happenings import Happening, Told
from schedules.world.nodes import WorldNode
from schedules.world.usage import Usage

OnArrival = Callable[[str, Iterable[str], WorldNode, float], None]
"""Told of a load's name, the groups that want it, its node, and what time it is."""
OnCopied = Callable[[bool, float], None]
"""Told whether a copy is whole, or will never be, and what time it is."""


class Wave(StrEnum):
    """What of a group's units comes at once: what its start asks for, what that holds back, or, of one that comes behind
    another, all."""

    FIRST = "first"
    HELD_BACK = "held back"
    BEHIND = "behind"


@dataclass(frozen=True)
class Way:
    """Bytes that go from a node to another, or stay where they are."""

    giver: WorldNode
    taker: WorldNode
    size_bytes: int


@dataclass(eq=False)
class _Load:
    """Units that come to a `tier` of a node as one, ordered at `ordered_s`; `wanted` are the groups that want them."""

    node: WorldNode
    units: tuple[Unit, ...]
    priority: int
    source: str
    ordered_s: float
    tier: str = "dram"
    wanted: dict[str, None] = field(default_factory=dict)


@dataclass(eq=False)
class _Copy:
    """`left` are its transfers that are under way, since `ordered_s`."""

    ways: Sequence[Way]
    ordered_s: float
    on_copied: OnCopied
    left: set[str]


class Loads:
    """One load for a unit on a node, however many wait for it; `on_arrival` hears of each that is there. Beside them, KV
    cache on its way from node to node."""

    def __init__(
        self,
        rates: Mapping[str, float],
        nodes: Mapping[str, WorldNode],
        agenda: Agenda[Happening],
        on_arrival: OnArrival,
        usage: Usage,
        now_s: float,
    ) -> None:
        self._links = Links(rates, now_s)
        self._nodes, self._agenda, self._on_arrival = nodes, agenda, on_arrival
        self._usage = usage
        self._loads: dict[str, _Load] = {}
        self._wanted_by: dict[str, dict[str, None]] = {}
        """Names of loads, by the groups that want them."""
        self._copies: dict[str, _Copy] = {}
        self._copy_of: dict[str, str] = {}
        """Names of copies, by those of their transfers."""
        self._planned_s, self._plan = float("inf"), 0
        self._staged = count(1)
        self.moved_bytes = Counter[str]()

    def begin(self, group: str, placement: Placement, units: Mapping[str, Unit], wave: Wave, now_s: float) -> set[str]:
        """What the group's stages miss of a wave begins to come; the loads that its first token waits for."""
        self._hand_over(now_s)
        waits, new = set[str](), list[Transfer]()
        for rank, stage in enumerate(placement.stages):
            node, missing = self._nodes[stage.node], dict[tuple[str, int], list[Unit]]()
            for name, asked in zip_longest(stage.units, stage.sources, fillvalue=()):
                unit, priority = units[str(name)], _priority(stage, str(name), wave)
                if priority is None or node.tier(unit.digest) == "dram":
                    continue
                load = node.coming.get(unit.digest)
                if load is None:
                    missing.setdefault((self._source(node, unit, asked), priority), []).append(unit)
                else:
                    self._join(load, group, priority, now_s)
                    waits |= set() if priority == LATER else {load}
            for (source, priority), wanted in missing.items():
                name = f"{group}/{rank}/{source}/{wave}{'/later' if priority == LATER else ''}"
                new.append(self._transfer(name, source, node, wanted, priority))
                self._loads[name] = _Load(node, tuple(wanted), priority, _kind(source), now_s)
                self._want(group, name)
                node.coming.update((unit.digest, name) for unit in wanted)
                waits |= set() if priority == LATER else {name}
        self._links.begin(new, now_s)
        self._plan_ahead()
        return waits

    def stage(self, node: WorldNode, unit: Unit, tier: str, wanted_by: str, now_s: float) -> bool:
        """The unit begins to come to the tier, before anybody asks for it and behind all that anybody does. Whether it does:
        not if it is there or on its way."""
        there = node.tier(unit.digest)
        if unit.digest in node.coming or there == "dram" or there == tier:
            return False
        self._hand_over(now_s)
        source = "ssd" if there == "ssd" else self._giver(node, unit)
        name = f"staged/{next(self._staged)}"
        self._loads[name] = _Load(node, (unit,), STAGED, _kind(source), now_s, tier)
        self._want(wanted_by, name)
        node.coming[unit.digest] = name
        self._links.begin([self._transfer(name, source, node, (unit,), STAGED)], now_s)
        self._plan_ahead()
        return True

    def slowest(self, names: Iterable[str]) -> str:
        """Where the slowest of the loads under way that are called so comes from: "remote", "peer" or "ssd"; "dram" if there
        are none."""
        return max([self._loads[name].source for name in names], key=_SLOWER.index, default="dram")

    def hurry(self, group: str, now_s: float) -> None:
        """What the group wants makes way for others no more."""
        self._hand_over(now_s)
        for name in self._wanted_by.get(group, ()):
            self._raise(name, 0, now_s)
        self._plan_ahead()

    def copy(self, name: str, ways: Sequence[Way], on_copied: OnCopied, now_s: float) -> None:
        """KV cache begins to go these ways, beside all else that there is on them; `on_copied` hears of it once, unless it is
        given up. Names are used once."""
        self._hand_over(now_s)
        new = list[Transfer]()
        for index, way in enumerate(ways):
            card = way.taker.card
            links = () if way.giver.card == card else (out_link(way.giver.card), nic_link(card))
            new.append(Transfer(f"{name}/kv/{index}", links, way.size_bytes))
        self._copies[name] = _Copy(ways, now_s, on_copied, {transfer.name for transfer in new})
        self._copy_of |= {transfer.name: name for transfer in new}
        self._links.begin(new, now_s)
        self._plan_ahead()

    def give_up_copy(self, name: str, now_s: float) -> None:
        """Nobody wants it any more. What is over is so already."""
        if name in self._copies:
            self._hand_over(now_s)
        if name in self._copies:
            self._end_copy(name, now_s)
            self._plan_ahead()

    def give_up(self, group: str, now_s: float) -> None:
        """The group wants nothing more: what nobody else does ends."""
        self._hand_over(now_s)
        for name in self._wanted_by.pop(group, ()):
            load = self._loads[name]
            del load.wanted[group]
            if not load.wanted:
                self._end(name, now_s)
        self._plan_ahead()

    def leave(self, node: WorldNode, now_s: float) -> None:
        """The node answers nobody: what came from it comes from the store now, and nothing comes to one that is gone, but
        what others of its box wait for. No copy from it or to it will be whole."""
        self._hand_over(now_s)
        for name, copy in list(self._copies.items()):
            if any(node in (way.giver, way.taker) for way in copy.ways):
                self._end_copy(name, now_s)
                copy.on_copied(False, now_s)
        if node.gone:
            beside = next((each for each in self._nodes.values() if each.card == node.card and not each.gone), None)
            for name, load in [(name, load) for name, load in self._loads.items() if load.node is node]:
                if beside is None:
                    self._end(name, now_s)
                else:
                    load.node = beside
        for transfer in self._links.transfers:
            if out_link(node.card) in transfer.links:
                self._links.end(transfer.name, now_s)
                links = tuple(STORE if link == out_link(node.card) else link for link in transfer.links)
                self._links.begin([transfer._replace(links=links)], now_s)
        self._plan_ahead()

    def _source(self, node: WorldNode, unit: Unit, asked: Sequence[str]) -> str:
        """The first that has the unit, of those that the node is told to ask."""
        if node.tier(unit.digest) == "ssd":
            return "ssd"
        for source in asked:
            peer = self._nodes.get(peer_of(source) or "")
            if source == STORE or (peer is not None and peer.answers and peer.tier(unit.digest) is not None):
                return source
        return STORE

    def _giver(self, node: WorldNode, unit: Unit) -> str:
        """Whence a unit comes that nobody was told to ask anybody for: a peer that has it, of several one that has it in
        dram, else the store."""
        having = [
            (peer.tier(unit.digest) != "dram", peer.name)
            for peer in self._nodes.values()
            if peer.gives and peer.card != node.card and peer.tier(unit.digest) is not None
        ]
        return from_peer(min(having)[1]) if having else STORE

    def _join(self, name: str, group: str, priority: int, now_s: float) -> None:
        """The group wants the load too, in dram. If it came behind all others, it does so no more if the group does not."""
        self._want(group, name)
        self._loads[name].tier = "dram"
        self._raise(name, priority, now_s)

    def _raise(self, name: str, priority: int, now_s: float) -> None:
        load = self._loads[name]
        if load.priority >= BEHIND and priority < load.priority:
            load.priority = priority
            transfer = self._links.transfer(name)
            self._links.end(name, now_s)
            self._links.begin([transfer._replace(priority=priority)], now_s)

    def _transfer(self, name: str, source: str, node: WorldNode, units: Iterable[Unit], priority: int) -> Transfer:
        size_bytes, peer = sum(unit.size_bytes for unit in units), peer_of(source)
        if source == "ssd":
            return Transfer(name, (node.ssd_link,), size_bytes, priority)
        links = (STORE if peer is None else out_link(self._nodes[peer].card), nic_link(node.card))
        return Transfer(name, links, size_bytes, priority, queue=node.name)

    def _end(self, name: str, now_s: float) -> None:
        load = self._forget(name)
        for unit in load.units:
            load.node.coming.pop(unit.digest, None)
        self._links.end(name, now_s)

    def _want(self, group: str, name: str) -> None:
        self._loads[name].wanted[group] = None
        self._wanted_by.setdefault(group, {})[name] = None

    def _forget(self, name: str) -> _Load:
        """Nobody waits for the load any more."""
        load = self._loads.pop(name)
        for group in load.wanted:
            wanted = self._wanted_by[group]
            del wanted[name]
            if not wanted:
                del self._wanted_by[group]
        return load

    def _end_copy(self, name: str, now_s: float) -> None:
        for transfer in sorted(self._copies.pop(name).left):
            del self._copy_of[transfer]
            self._links.end(transfer, now_s)

    def _hand_over(self, now_s: float) -> None:
        """What has arrived by now: KV cache first."""
        done = self._links.advance(now_s)
        for transfer in [name for name in done if name in self._copy_of]:
            self._copied(self._copy_of.pop(transfer), transfer, now_s)
        for name in [name for name in done if name in self._loads]:
            load = self._forget(name)
            load.node.bring(load.units, load.tier)
            size_bytes = sum([unit.size_bytes for unit in load.units])
            self.moved_bytes[load.source] += size_bytes
            if load.source != "ssd":
                self._usage.came(size_bytes, load.ordered_s, now_s, from_store=load.source == "remote")
            self._on_arrival(name, load.wanted, load.node, now_s)

    def _copied(self, name: str, transfer: str, now_s: float) -> None:
        """One of the copy's transfers is done."""
        copy = self._copies[name]
        copy.left.discard(transfer)
        if not copy.left:
            del self._copies[name]
            for way in copy.ways:
                if way.giver is not way.taker:
                    self._usage.came(way.size_bytes, copy.ordered_s, now_s, from_store=False)
            copy.on_copied(True, now_s)

    def _plan_ahead(self) -> None:
        """The next arrival is on the agenda, in the place of the one that was there."""
        soonest_s = self._links.next_s()
        if soonest_s == self._planned_s:
            return
        self._planned_s, self._plan = soonest_s, self._plan + 1
        plan = self._plan
        if soonest_s < float("inf"):
            self._agenda.put(soonest_s, lambda at_s: self._arrive(plan, at_s))

    def _arrive(self, plan: int, now_s: float) -> Sequence[Told]:
        if plan == self._plan:
            self._planned_s = float("inf")
            self._hand_over(now_s)
            self._plan_ahead()
        return ()


_SLOWER = ("dram", "ssd", "peer", "remote")


def _kind(source: str) -> str:
    return "ssd" if source == "ssd" else "remote" if peer_of(source) is None else "peer"


def _priority(stage: StagePlan, unit: str, wave: Wave) -> int | None:
    """Of the unit's load; None if it is not in the wave."""
    if wave is Wave.BEHIND:
        return BEHIND
    if (unit in stage.held_back) != (wave is Wave.HELD_BACK):
        return None
    return LATER if unit in stage.later else 0
