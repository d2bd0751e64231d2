"""What is on its way to the nodes of the world: over shared wires, and from ssds that those of one machine share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from schedules.events import Event
from schedules.facts import Placement, Unit
from schedules.ledgers.links import Links, nic_link, out_link
from schedules.ledgers.shares import LATER, Transfer
from schedules.placing.sources import peer_of
from schedules.rates import STORE
from schedules.simulation.agenda import Agenda
from schedules.simulation.groups import Happening
from schedules.simulation.nodes import WorldNode

OnArrival = Callable[[str, Iterable[str], WorldNode, float], None]
"""Told of a load's name, the groups that want it, its node, and what time it is."""


@dataclass(eq=False)
class _Load:
    """Units that come to a node as one; `wanted` are the groups that want them."""

    node: WorldNode
    units: tuple[Unit, ...]
    wanted: set[str] = field(default_factory=set)


class Loads:
    """One load for a unit on a node, however many wait for it. `on_arrival` hears of each that is there."""

    def __init__(
        self,
        rates: Mapping[str, float],
        nodes: Mapping[str, WorldNode],
        agenda: Agenda[Happening],
        on_arrival: OnArrival,
        now_s: float,
    ) -> None:
        self._links = Links(rates, now_s)
        self._nodes, self._agenda, self._on_arrival = nodes, agenda, on_arrival
        self._loads: dict[str, _Load] = {}
        self._plan = 0

    def begin(
        self, group: str, placement: Placement, units: Mapping[str, Unit], held_back: bool, now_s: float
    ) -> set[str]:
        """What the group's stages miss begins to come, or what is `held_back` of it; the loads that its first token waits
        for."""
        self._hand_over(now_s)
        waits, new = set[str](), list[Transfer]()
        for rank, stage in enumerate(placement.stages):
            node, missing = self._nodes[stage.node], dict[tuple[str, bool], list[Unit]]()
            for name, asked in zip_longest(stage.units, stage.sources, fillvalue=()):
                unit, later = units[str(name)], name in stage.later
                load = node.coming.get(unit.digest)
                if (name in stage.held_back) != held_back or node.tier(unit.digest) == "dram":
                    continue
                if load is None:
                    missing.setdefault((self._source(node, unit, asked), later), []).append(unit)
                else:
                    self._loads[load].wanted.add(group)
                    waits |= set() if later else {load}
            for (source, later), wanted in missing.items():
                name = f"{group}/{rank}/{source}{'/later' if later else ''}{'/behind' if held_back else ''}"
                new.append(self._transfer(name, source, node, wanted, LATER if later else 0))
                self._loads[name] = _Load(node, tuple(wanted), {group})
                node.coming.update((unit.digest, name) for unit in wanted)
                waits |= set() if later else {name}
        self._links.begin(new, now_s)
        self._plan_ahead(now_s)
        return waits

    def give_up(self, group: str, now_s: float) -> None:
        """The group wants nothing more: what nobody else does ends."""
        self._hand_over(now_s)
        for name, load in list(self._loads.items()):
            load.wanted.discard(group)
            if not load.wanted:
                self._end(name, now_s)
        self._plan_ahead(now_s)

    def leave(self, node: WorldNode, now_s: float) -> None:
        """The node answers nobody: what came from it comes from the store now, and nothing comes to one that is gone."""
        self._hand_over(now_s)
        if node.gone:
            for name in [name for name, load in self._loads.items() if load.node is node]:
                self._end(name, now_s)
        for transfer in self._links.transfers:
            if out_link(node.name) in transfer.links:
                self._links.end(transfer.name, now_s)
                links = tuple(STORE if link == out_link(node.name) else link for link in transfer.links)
                self._links.begin([transfer._replace(links=links)], now_s)
        self._plan_ahead(now_s)

    def _source(self, node: WorldNode, unit: Unit, asked: Sequence[str]) -> str:
        """The first that has the unit, of those that the node is told to ask."""
        if node.tier(unit.digest) == "ssd":
            return "ssd"
        for source in asked:
            peer = self._nodes.get(peer_of(source) or "")
            if source == STORE or (peer is not None and peer.answers and peer.tier(unit.digest) is not None):
                return source
        return STORE

    def _transfer(self, name: str, source: str, node: WorldNode, units: Iterable[Unit], priority: int) -> Transfer:
        size_bytes, peer = sum(unit.size_bytes for unit in units), peer_of(source)
        if source == "ssd":
            return Transfer(name, (node.ssd_link,), size_bytes, priority)
        links = (STORE if peer is None else out_link(peer), nic_link(node.name))
        return Transfer(name, links, size_bytes, priority, queue=node.name)

    def _end(self, name: str, now_s: float) -> None:
        load = self._loads.pop(name)
        for unit in load.units:
            load.node.coming.pop(unit.digest, None)
        self._links.end(name, now_s)

    def _hand_over(self, now_s: float) -> None:
        """What has arrived by now."""
        under_way = self._links.forecast(now_s)
        for name in [name for name in self._loads if name not in under_way]:
            load = self._loads.pop(name)
            load.node.bring(load.units)
            self._on_arrival(name, load.wanted, load.node, now_s)

    def _plan_ahead(self, now_s: float) -> None:
        """The next arrival is put on the agenda, in the place of the one that was there."""
        self._plan += 1
        plan = self._plan
        soonest_s = min(self._links.forecast(now_s).values(), default=float("inf"))
        if soonest_s < float("inf"):
            self._agenda.put(soonest_s, lambda at_s: self._arrive(plan, at_s))

    def _arrive(self, plan: int, now_s: float) -> Sequence[Event]:
        if plan == self._plan:
            self._hand_over(now_s)
            self._plan_ahead(now_s)
        return ()
