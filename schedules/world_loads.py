"""What is on its way to the nodes of the world: over shared wires, and from ssds that those of one machine share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from schedules.agenda import Agenda
from schedules.events import Event
from schedules.facts import Placement, StagePlan, Unit, View
from schedules.ledgers.links import LATER, Links, Transfer, nic_link, out_link
from schedules.placing.sources import choose_peers, store_first
from schedules.rates import STORE
from schedules.world_groups import Happening
from schedules.world_nodes import WorldNode

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

    def begin(self, group: str, placement: Placement, units: Mapping[str, Unit], now_s: float) -> set[str]:
        """What the group's stages miss begins to come; the loads that its first token waits for."""
        self._hand_over(now_s)
        waits, new = set[str](), list[Transfer]()
        for rank, stage in enumerate(placement.stages):
            node = self._nodes[stage.node]
            for name in stage.units:
                load = node.coming.get(units[name].digest)
                if load is not None:
                    self._loads[load].wanted.add(group)
                    waits |= set() if name in stage.later else {load}
            for source, missing in self._missing(node, stage, units).items():
                later = source.endswith("/later")
                transfer = self._transfer(f"{group}/{rank}/{source}", source.removesuffix("/later"), node, missing)
                new.append(replace(transfer, priority=LATER if later else 0))
                self._loads[transfer.name] = _Load(node, tuple(missing), {group})
                node.coming.update((unit.digest, transfer.name) for unit in missing)
                waits |= set() if later else {transfer.name}
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
                self._links.begin([replace(transfer, links=links)], now_s)
        self._plan_ahead(now_s)

    def _missing(self, node: WorldNode, stage: StagePlan, units: Mapping[str, Unit]) -> dict[str, list[Unit]]:
        """What neither is in the node's dram nor comes there, by where it is to come from."""
        wanted = {units[name].digest: name in stage.later for name in stage.units}
        away = [digest for digest in wanted if node.tier(digest) is None and digest not in node.coming]
        answering = View(tuple(other.facts for other in self._nodes.values() if other.answers)) if away else View(())
        peers, first = choose_peers(away, node.name, answering), store_first(away, node.name, answering)
        found: dict[str, list[Unit]] = {}
        for unit in {units[name].digest: units[name] for name in stage.units}.values():
            tier = node.tier(unit.digest)
            if tier == "dram" or unit.digest in node.coming:
                continue
            chosen = None if unit.digest in first else peers.get(unit.digest)
            source = "ssd" if tier == "ssd" else chosen[0] if chosen else STORE
            found.setdefault(f"{source}/later" if wanted[unit.digest] else source, []).append(unit)
        return found

    def _transfer(self, name: str, source: str, node: WorldNode, units: Iterable[Unit]) -> Transfer:
        size_bytes = sum(unit.size_bytes for unit in units)
        if source == "ssd":
            return Transfer(name, (node.ssd_link,), size_bytes)
        links = (STORE if source == STORE else out_link(source), nic_link(node.name))
        return Transfer(name, links, size_bytes, queue=node.name)

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
