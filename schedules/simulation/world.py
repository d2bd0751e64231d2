"""A cluster as it would behave, under virtual time: it is given orders and misfortunes at a time, and tells events.

It does what nodes, wires and stages do, as `estimates` and `ledgers.links` have it and at the speeds that nodes report, and
decides nothing. It holds no clock and no chance: the same orders at the same times are followed by the same events. What
the simulator runs against, and what is behind the cluster in memory (`cluster.fake`).

Left out: a unit's bytes count when all that come with it are there; a start computes when all it waits for is there, or all
but a stage's last unit if it goes on by layer, and has gone over its own bus, of which stages on one GPU take nothing from
each other. What comes behind others makes way on wires alone. Who follows has its room at once or not at all, gets KV cache
whole or not at all, and takes in what it lacks in one step. Steps alone use cores: what fetching, forming and answering take
of them is nobody's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from schedules.events import (
    GroupFailed,
    GroupFormed,
    GroupFound,
    GroupLost,
    GroupStopped,
    NodeLeft,
    NodeReported,
    NodesHeard,
    RequestProgressed,
    SchedulerJoined,
    SchedulerLost,
)
from schedules.facts import Model, ModelKey, Node, Placement, Rate, Unit, View
from schedules.foresight.plan import Staging
from schedules.foresight.retention import Retention
from schedules.ledgers.nodes import link_rates
from schedules.placing.decision import IN_DRAM, NETWORK, ON_SSD
from schedules.rates import SSD
from schedules.simulation.agenda import Agenda
from schedules.simulation.groups import Ask, Batch, WorldGroup
from schedules.simulation.habits import Habits, Misfortune, Times
from schedules.simulation.happenings import Happening, Told
from schedules.simulation.loads import Loads, Wave
from schedules.simulation.nodes import Tiers, WorldNode
from schedules.simulation.stagings import Stagings
from schedules.simulation.steps import Steps
from schedules.simulation.usage import ByMinute, Usage
from schedules.systems.system import Keeps, Startup

_AT_ONCE = Startup()
_WHENCE = {"remote": NETWORK, "peer": NETWORK, "ssd": ON_SSD, "dram": IN_DRAM}
_RUNTIME = "runtime"
"""What a serial start waits for before it fetches anything."""


class World:
    """`next_s` is when something happens next, and `happen` lets it. Orders and misfortunes come with the time that it is,
    which is never before what has happened. `truly` are the rates of nodes that are not as fast as they report.

    If it is `terse` the same happens as otherwise, but a long run is far faster: of a stream its first and last tokens are
    told, and what it had when something becomes of it; of nodes what has changed, and now and then, in one word for all, that
    they are there.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        models: Iterable[Model] = (),
        habits: Habits | None = None,
        now_s: float = 0.0,
        startups: Mapping[str, Startup] | None = None,
        keeps: Keeps | None = None,
        count_from_s: float | None = None,
        truly: Mapping[str, Mapping[str, Rate]] | None = None,
        *,
        terse: bool = False,
    ) -> None:
        self.habits, self._startups, self._terse = habits or Habits(), startups or {}, terse
        self._models: dict[ModelKey, Model] = {}
        for model in models:
            self.know(model)
        sizes = {unit.digest: unit.size_bytes for model in self._models.values() for unit in model.units}
        facts = sorted(nodes, key=lambda node: node.name)
        keeps = keeps or Keeps()
        tiers = {each.card: Tiers(each.dram_bytes, each.ssd_bytes, keeps) for each in facts}
        rates_of = {each.name: (truly or {}).get(each.name, each.rates) for each in facts}
        self._nodes = {
            each.name: WorldNode(each, sizes, keeps, tiers[each.card], rates_of[each.name], terse=terse)
            for each in facts
        }
        self._beside: dict[str, list[str]] = {}
        for each in facts:
            self._beside.setdefault(each.card, []).append(each.name)
        self._groups: dict[str, WorldGroup] = {}
        self._agenda: Agenda[Happening] = Agenda(now_s)
        disks = {node.ssd_link: rates_of[name][SSD].mean for name, node in self._nodes.items()}
        rates = link_rates(View(tuple(replace(node, rates=rates_of[node.name]) for node in facts))) | disks
        self._usage = Usage(now_s if count_from_s is None else count_from_s)
        self._loads = Loads(rates, self._nodes, self._agenda, self._arrived, self._usage, now_s)
        self._stagings = Stagings(self._models, self._nodes, self._loads, self._agenda)
        self._steps = Steps(self._groups, self._loads, self._agenda, self._answered, self.habits)
        self._failed: set[str] = set()
        self._changed: set[str] = set()
        self._refusals = 0
        self._agenda.tell(now_s, lambda _: (SchedulerJoined(),))
        for index, node in enumerate(self._nodes.values()):
            self._report_soon(node, now_s - self.habits.report_after_s)
            if not terse:
                offset_s = self.habits.report_every_s * (1 + (index + 0.5) / len(self._nodes))
                self._agenda.tell(now_s + offset_s, self._reporting_always(node))
        if terse:
            self._agenda.tell(now_s + self.habits.report_every_s, self._hear_always)

    # ---- what is seen from outside

    @property
    def next_s(self) -> float:
        """When something happens next; infinite if nothing will."""
        return self._agenda.next_s

    def happen(self) -> tuple[float, Sequence[Told]]:
        """The next thing happens: when that is, and what is told of it, if anything. IndexError if nothing will."""
        now_s, happening = self._agenda.pop()
        return now_s, happening(now_s)

    def know(self, model: Model) -> None:
        """It can be ordered from now on."""
        self._models[model.key] = model

    def times(self, group: str) -> Times | None:
        """Of the group's start; None if it is not there any more."""
        there = self._groups.get(group)
        if there is None:
            return None
        return Times(there.ordered_s, there.formed_s, there.fetched_s, _WHENCE[there.found], there.found)

    def reports(self) -> list[NodeReported]:
        """Of all nodes that answer, asked now."""
        return [node.report() for node in self._nodes.values() if node.answers]

    def view(self) -> View:
        """Of all nodes that answer, as they are."""
        return View(tuple([node.as_it_is() for node in self._nodes.values() if node.answers]))

    @property
    def moved_bytes(self) -> Mapping[str, int]:
        """Units that have come to nodes, by whence: "remote", "peer", "ssd"."""
        return self._loads.moved_bytes

    def by_minute(self, now_s: float) -> ByMinute:
        """What of the nodes was used since `count_from_s`, or its begin, and until now."""
        return self._usage.by_minute(now_s)

    # ---- orders

    def form(
        self, name: str, key: ModelKey, placement: Placement, timeout_s: float, now_s: float,
        *, behind: bool = False, in_place_of: str = "",
    ) -> None:  # fmt: skip
        """GroupFormed or GroupFailed answers, unless it is stopped before. One that comes `behind` is formed when all of its
        units are there, too, which make way for all others; one that grows `in_place_of` another is up already."""
        failure = self._refusal(placement, in_place_of)
        if failure is not None:
            self._tell_failed(GroupFailed(name, *failure), now_s + self.habits.answer_after_s)
            return
        nodes = tuple(self._nodes[stage.node] for stage in placement.stages)
        startup = _AT_ONCE if in_place_of else self._startup(nodes)
        weights = _weights(placement, sliced=startup.sliced)
        speeds = [*zip(weights, [node.speeds for node in nodes], strict=True)]
        on_gpu = all(node.on_gpu for node in nodes)
        batch = Batch(placement.kv_tokens, speeds, self.habits, on_gpu, terse=self._terse)
        group = self._groups[name] = WorldGroup(name, key, placement, nodes, batch, now_s, startup, behind)
        digests = {unit.name: unit.digest for unit in self._models[key].units}
        for stage, node in zip(placement.stages, nodes, strict=True):
            units, passing = tuple(digests[unit] for unit in stage.units), behind or placement.degree > 1
            node.use(name, units, stage.reserve_bytes, passing=passing, in_place_of=in_place_of)
            self._report_soon(node, now_s)
        if startup.serial:
            group.waits.add(_RUNTIME)
        else:
            self._fetch(group, Wave.BEHIND if behind else Wave.FIRST, now_s)
        formed_s = 0.0 if in_place_of else max(node.speeds.formed(placement.degree) for node in nodes)
        self._agenda.tell(now_s + formed_s, lambda at_s: self._formed(group, at_s))
        self._agenda.put(now_s + timeout_s, lambda at_s: self._too_late(group, timeout_s, at_s))

    def hurry(self, name: str, now_s: float) -> None:
        """Somebody waits for the group that came behind others: it makes way no more, and is formed as others are."""
        group = self._groups.get(name)
        if group is None or not group.behind or (group.built and not group.waits):
            return
        group.behind = False
        self._loads.hurry(name, now_s)
        if group.built:
            self._agenda.tell(now_s, self._forming(group))

    def stop(self, name: str, now_s: float) -> None:
        """GroupStopped answers, whether or not there is such a group. Its requests break at once."""
        group = self._groups.get(name)
        self._failed.discard(name)
        takes_s = self.habits.dissolve_s
        if group is not None:
            takes_s = takes_s if group.answers else self.habits.given_up_after_s
            broken = self._steps.break_all(group, "the group was dissolved", now_s)
            self._agenda.tell(now_s, lambda _: broken)
            self._release(group, now_s)
        self._agenda.tell(now_s + takes_s, lambda _: (GroupStopped(name),))

    def adopt(self, name: str, now_s: float) -> None:
        """GroupFormed or GroupFailed answers."""
        there = name in self._groups
        answer = GroupFormed(name) if there else GroupFailed(name, "it is not there any more", False)
        self._agenda.tell(now_s + self.habits.answer_after_s, lambda _: (answer,))

    def run(self, name: str, ask: Ask, now_s: float) -> None:
        """The group gives the request its tokens, from when it has them on. The names of requests are used once."""
        self._steps.run(name, ask, now_s)

    def follow(self, name: str, ask: Ask, copy_of: str, now_s: float) -> None:
        """The group takes in a request that is generated elsewhere, where it is called `copy_of` if its KV cache is to be
        copied from there. CaughtUp is told whenever it has, RequestRefused if there is no room now."""
        self._steps.follow(name, ask, copy_of, now_s)

    def more(self, request: str, tokens: int, now_s: float) -> None:
        """The request that is followed has so many more. To one that is over nothing happens."""
        self._steps.more(request, tokens, now_s)

    def go_on(self, request: str, tokens: int, now_s: float) -> None:
        """The same, and from now on it is given its tokens where it was followed."""
        self._steps.go_on(request, tokens, now_s)

    def yield_up(self, request: str, now_s: float) -> None:
        """It is given nothing after the step that it is in; Yielded is told then, unless it is over before."""
        self._steps.yield_up(request, now_s)

    def untold(self, request: str, now_s: float) -> Sequence[RequestProgressed]:
        """Tokens that the request was given by now, and that nothing was told of: if the world is terse."""
        return self._steps.untold(request, now_s)

    def cancel(self, request: str, now_s: float) -> None:
        """Nobody wants the request's tokens any more. One that is over is so already."""
        self._steps.cancel(request, now_s)

    def bring(self, node: str, units: Iterable[Unit], tier: str, now_s: float) -> None:
        """The units have come to the node's tier by other ways than those of starts."""
        self._nodes[node].bring(units, tier)
        self._report_soon(self._nodes[node], now_s)

    def stage(self, stagings: Iterable[Staging], now_s: float) -> None:
        """They begin, one after the other on each node, behind all that anybody waits for; of those before what has not begun
        does not."""
        self._stagings.begin(stagings, now_s)

    def retain(self, node: str, dram: Retention, ssd: Retention) -> None:
        """Who makes room in the node's tiers from now on."""
        self._nodes[node].retain(dram, ssd)

    def evict(self, node: str, digests: Iterable[str], now_s: float) -> None:
        """Units that nobody uses leave the node's tiers."""
        self._nodes[node].evict(digests)
        self._report_soon(self._nodes[node], now_s)

    # ---- misfortunes

    def befall(self, what: Misfortune, name: str, now_s: float) -> None:
        """It happens to what is called `name`, which is a node's or a group's; "" is the group that is up the longest, and
        none for the others. To what is not there nothing happens."""
        if what is Misfortune.START_REFUSED:
            self._refusals += 1
        else:
            self._agenda.tell(now_s, lambda at_s: self._befall(what, name, at_s))

    def _befall(self, what: Misfortune, name: str, now_s: float) -> Sequence[Told]:
        node, group = self._nodes.get(name), self._groups.get(name) if name else self._oldest()
        match what:
            case Misfortune.SCHEDULER_LOST:
                return (SchedulerLost(),)
            case Misfortune.SCHEDULER_BACK:
                return (SchedulerJoined(),)
            case Misfortune.GROUP_LOST if group is not None:
                return self._lose([group], "a stage process died", now_s)
            case Misfortune.GROUP_ABANDONED if group is not None:
                return self._abandon(group, now_s)
            case Misfortune.NODE_BACK if node is not None and not node.answers:
                return self._restore(node, now_s)
            case Misfortune.NODE_SILENT if node is not None and node.answers:
                node.silent_since_s = now_s
                self._loads.leave(node, now_s)
                for on_it in self._on(node):
                    self._steps.hurry(on_it, now_s)
            case Misfortune.NODE_DRAINING if node is not None and node.answers:
                self._drain(node, now_s)
            case Misfortune.NODE_LOST if node is not None and not node.gone:
                return self._end(node, f"node {node.name} is gone", now_s)
            case _:
                pass
        return ()

    def _drain(self, node: WorldNode, now_s: float) -> None:
        """It ends as soon as it has nothing, or after its grace."""
        node.drain()
        self._report_soon(node, now_s)
        self._end_if_drained(node, now_s)
        self._agenda.tell(now_s + self.habits.drain_grace_s, self._ending(node))

    def _end_if_drained(self, node: WorldNode, now_s: float) -> None:
        """It has said by then that it drains, and that it has nothing."""
        if node.draining and not node.reserved:
            self._agenda.tell(now_s + 2 * self.habits.report_after_s, self._ending(node))

    def _ending(self, node: WorldNode) -> Happening:
        """Of this draining, and no other."""
        drains = node.drains

        def tell(now_s: float) -> Sequence[Told]:
            if not node.answers or not node.draining or node.drains != drains:
                return ()
            return self._end(node, f"node {node.name} has drained", now_s)

        return tell

    def _end(self, node: WorldNode, cause: str, now_s: float) -> Sequence[Told]:
        node.end()
        self._count(node, now_s)
        self._loads.leave(node, now_s)
        self._stagings.leave(node)
        return (NodeLeft(node.name), *self._lose(self._on(node), cause, now_s))

    def _oldest(self) -> WorldGroup | None:
        return next((group for group in self._groups.values() if group.formed_s is not None), None)

    def _on(self, node: WorldNode) -> list[WorldGroup]:
        return [group for group in self._groups.values() if node in group.nodes]

    def _lose(self, groups: Iterable[WorldGroup], cause: str, now_s: float) -> Sequence[Told]:
        """What is lost is told before what breaks by it."""
        lost, broken = list[Told](), list[Told]()
        for group in groups:
            if group.formed_s is None:
                self._fail(group, cause, now_s)
            else:
                lost.append(GroupLost(group.name, cause))
                broken += self._steps.break_all(group, cause, now_s)
                self._release(group, now_s)
        return (*lost, *broken)

    def _abandon(self, group: WorldGroup, now_s: float) -> Sequence[Told]:
        found = GroupFound(group.name, group.key, group.placement)
        self._agenda.tell(
            now_s + self.habits.found_after_s, lambda _: (found,) if self._groups.get(group.name) is group else ()
        )
        cause = "the front end that asked is gone"
        return (GroupLost(group.name, cause), *self._steps.break_all(group, cause, now_s))

    def _restore(self, node: WorldNode, now_s: float) -> Sequence[Told]:
        """A node that was silent for longer than its leases has ended what ran there."""
        over = node.silent_since_s is not None and now_s - node.silent_since_s > self.habits.lease_s
        node.begin()
        if node.draining:
            self._drain(node, now_s)
        for name in [name for name in node.reserved if name not in self._groups]:
            node.release(name)
        self._count(node, now_s)
        report, groups = node.report(), self._on(node)
        if over:
            return (report, *self._lose(groups, f"node {node.name} was silent for too long", now_s))
        for group in groups:
            if group.answers:
                stalled, group.stalled = group.stalled, []
                for happening in stalled:
                    self._agenda.tell(now_s, happening)
        return (report,)

    # ---- groups

    def _refusal(self, placement: Placement, in_place_of: str) -> tuple[str, bool] | None:
        """Why it cannot be formed, and whether deciding again may help."""
        for stage in placement.stages:
            node = self._nodes.get(stage.node)
            if node is None or node.gone:
                return f"node {stage.node} is not connected", False
            if node.draining:
                return f"node {stage.node} is draining and takes no stages", True
        if self._refusals:
            self._refusals -= 1
            return f"node {placement.stages[0].node} takes no stages now", True
        for stage in placement.stages:
            node = self._nodes[stage.node]
            free_bytes = node.free_bytes + node.reserved.get(in_place_of, 0)
            if free_bytes < stage.reserve_bytes:
                return f"node {stage.node} has {free_bytes} bytes free, {stage.reserve_bytes} are wanted", True
        return None

    def _fetch(self, group: WorldGroup, wave: Wave, now_s: float) -> None:
        units = {unit.name: unit for unit in self._models[group.key].units}
        waits = self._loads.begin(group.name, group.placement, units, wave, now_s)
        group.waits |= waits
        if waits and not group.answered:
            group.found = self._loads.slowest(waits)

    def _formed(self, group: WorldGroup, now_s: float) -> Sequence[Told]:
        if self._groups.get(group.name) is not group:
            return ()
        if not group.answers:
            group.stalled.append(lambda at_s: self._formed(group, at_s))
            return ()
        group.built = True
        if _RUNTIME in group.waits:
            group.waits.remove(_RUNTIME)
            self._fetch(group, Wave.BEHIND if group.behind else Wave.FIRST, now_s)
        if group.behind and group.waits:
            return ()  # until it has them all
        group.formed_s = now_s
        if group.ready:
            self._steps.kick(group, now_s)
        self._settle(group, now_s)
        return (GroupFormed(group.name),)

    def _settle(self, group: WorldGroup, now_s: float) -> None:
        """It computes a while after it has all that it waits for, once."""
        if group.formed_s is None or group.waits or group.settles:
            return
        group.settles = True
        if group.startup.by_layer:
            self._steps.all_there(group, now_s)
            return
        ready_s = group.ready_s(now_s)
        if ready_s <= now_s:
            self._settled(group, now_s)
        else:
            self._agenda.put(ready_s, lambda at_s: self._settled(group, at_s))

    def _settled(self, group: WorldGroup, now_s: float) -> Sequence[Told]:
        group.settled = True
        self._steps.kick(group, now_s)
        return ()

    def _startup(self, nodes: Iterable[WorldNode]) -> Startup:
        """Of a group on them: the slowest's."""
        each = [self._startups.get(node.name, _AT_ONCE) for node in nodes]
        return Startup(
            any(startup.serial for startup in each),
            max(startup.tail_s for startup in each),
            all(startup.streams for startup in each),
            any(startup.sliced for startup in each),
            all(startup.by_layer for startup in each),
        )

    def _too_late(self, group: WorldGroup, timeout_s: float, now_s: float) -> Sequence[Told]:
        if self._groups.get(group.name) is group and group.formed_s is None:
            self._fail(group, f"it was not formed within {timeout_s:.0f} s", now_s)
        return ()

    def _fail(self, group: WorldGroup, reason: str, now_s: float) -> None:
        """Its nodes have reported by the time that it is told."""
        self._release(group, now_s)
        self._tell_failed(GroupFailed(group.name, reason, False), now_s + 2 * self.habits.report_after_s)

    def _tell_failed(self, failed: GroupFailed, at_s: float) -> None:
        self._failed.add(failed.group)

        def tell(_now_s: float) -> Sequence[Told]:
            known = failed.group in self._failed
            self._failed.discard(failed.group)
            return (failed,) if known else ()

        self._agenda.tell(at_s, tell)

    def _release(self, group: WorldGroup, now_s: float) -> None:
        """Nothing is left of it, but on nodes that are silent."""
        del self._groups[group.name]
        self._loads.give_up(group.name, now_s)
        for node in group.nodes:
            if node.answers:
                node.release(group.name)
                self._report_soon(node, now_s)
                self._end_if_drained(node, now_s)

    def _arrived(self, load: str, names: Iterable[str], node: WorldNode, now_s: float) -> None:
        """All units of a load, which the groups called `names` want, are in the node's dram, or on its ssd."""
        self._report_soon(node, now_s)
        self._stagings.arrived(names)
        for group in [self._groups[name] for name in names if name in self._groups]:
            if load in group.waits:
                group.waits.remove(load)
                group.fetched_s = group.there_s[node.name] = now_s
                self._settle(group, now_s)
                if group.behind and group.built and not group.waits:
                    self._agenda.tell(now_s, self._forming(group))

    def _forming(self, group: WorldGroup) -> Happening:
        return lambda at_s: self._formed(group, at_s)

    def _answered(self, group: WorldGroup, now_s: float) -> None:
        """Its first tokens are there."""
        self._fetch(group, Wave.HELD_BACK, now_s)

    # ---- reports

    def _reporting_always(self, node: WorldNode) -> Happening:
        def tell(now_s: float) -> Sequence[Told]:
            self._agenda.tell(now_s + self.habits.report_every_s, tell)
            return (node.report(),) if node.answers else ()

        return tell

    def _hear_always(self, now_s: float) -> Sequence[Told]:
        self._agenda.tell(now_s + self.habits.report_every_s, self._hear_always)
        return (NodesHeard(frozenset([node.name for node in self._nodes.values() if not node.answers])),)

    def _report_soon(self, node: WorldNode, now_s: float) -> None:
        """It has changed: with all others that do until then, among them those of its box, who have what it has."""
        self._count(node, now_s)
        if not self._changed:
            self._agenda.tell(now_s + self.habits.report_after_s, lambda _: self._report_changed())
        self._changed.update(self._beside[node.card])

    def _count(self, node: WorldNode, now_s: float) -> None:
        """What is in the dram of a box counts as its first node's."""
        first = self._nodes[self._beside[node.card][0]]
        self._usage.stands(first.name, first.reserved_bytes, first.dram_used_bytes, now_s)
        if node is not first:
            self._usage.stands(node.name, node.reserved_bytes, 0, now_s)

    def _report_changed(self) -> Sequence[Told]:
        changed, self._changed = [self._nodes[name] for name in sorted(self._changed)], set()
        return [node.report() for node in changed if node.answers]


def _weights(placement: Placement, *, sliced: bool) -> list[int]:
    """What each stage reads for a token; of a slice that computes slower, as much more as takes as long."""
    most_bytes = max(stage.reserve_bytes for stage in placement.stages)
    return [s.weight_bytes * most_bytes // s.reserve_bytes if sliced else s.weight_bytes for s in placement.stages]
