"""Groups of the world from their order on: refused or formed, up once they have what they wait for, failed or released."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from schedules.events import GroupFailed, GroupFormed, GroupStopped
from schedules.facts import Model, ModelKey, Placement
from schedules.systems.system import Startup
from schedules.world.agenda import Agenda
from schedules.world.groups import Batch, WorldGroup
from schedules.world.habits import Habits
from schedules.world.happenings import Happening, Told
from schedules.world.loads import Loads, Wave
from schedules.world.nodes import WorldNode
from schedules.world.reporting import Reporting
from schedules.world.steps import Steps

_AT_ONCE = Startup()
_RUNTIME = "runtime"
"""What a serial start waits for before it fetches anything."""
OnRelease = Callable[[WorldNode, float], None]
"""Told of a node that something was released on, and what time it is."""


class Forming:
    """Keeps `groups`, which are there from their order until they are released. `startups` are how starts go on nodes, by
    their names; `on_release` hears of each node that a group leaves."""

    def __init__(
        self,
        groups: dict[str, WorldGroup],
        models: Mapping[ModelKey, Model],
        nodes: Mapping[str, WorldNode],
        startups: Mapping[str, Startup],
        loads: Loads,
        steps: Steps,
        agenda: Agenda[Happening],
        reporting: Reporting,
        on_release: OnRelease,
        habits: Habits,
        *,
        terse: bool,
    ) -> None:
        self._groups, self._models, self._nodes, self._startups = groups, models, nodes, startups
        self._loads, self._steps, self._agenda, self._reporting = loads, steps, agenda, reporting
        self._on_release, self._habits, self._terse = on_release, habits, terse
        self._failed: set[str] = set()
        self._refusals = 0

    # ---- orders, as the world is given them

    def form(
        self, name: str, key: ModelKey, placement: Placement, timeout_s: float, now_s: float,
        *, behind: bool = False, in_place_of: str = "",
    ) -> None:  # fmt: skip
        """See World."""
        failure = self._refusal(placement, in_place_of)
        if failure is not None:
            self._tell_failed(GroupFailed(name, *failure), now_s + self._habits.answer_after_s)
            return
        nodes = tuple(self._nodes[stage.node] for stage in placement.stages)
        startup = _AT_ONCE if in_place_of else self._startup(nodes)
        weights = _weights(placement, sliced=startup.sliced)
        speeds = [*zip(weights, [node.speeds for node in nodes], strict=True)]
        on_gpu = all(node.on_gpu for node in nodes)
        batch = Batch(placement.kv_tokens, speeds, self._habits, on_gpu, terse=self._terse)
        group = self._groups[name] = WorldGroup(name, key, placement, nodes, batch, now_s, startup, behind)
        digests = {unit.name: unit.digest for unit in self._models[key].units}
        for stage, node in zip(placement.stages, nodes, strict=True):
            units, passing = tuple(digests[unit] for unit in stage.units), behind or placement.degree > 1
            node.use(name, units, stage.reserve_bytes, passing=passing, in_place_of=in_place_of)
            self._reporting.soon(node, now_s)
        if startup.serial:
            group.waits.add(_RUNTIME)
        else:
            self._fetch(group, Wave.BEHIND if behind else Wave.FIRST, now_s)
        formed_s = 0.0 if in_place_of else max(node.speeds.formed(placement.degree) for node in nodes)
        self._agenda.tell(now_s + formed_s, lambda at_s: self._formed(group, at_s))
        self._agenda.put(now_s + timeout_s, lambda at_s: self._too_late(group, timeout_s, at_s))

    def hurry(self, name: str, now_s: float) -> None:
        """See World."""
        group = self._groups.get(name)
        if group is None or not group.behind or (group.built and not group.waits):
            return
        group.behind = False
        self._loads.hurry(name, now_s)
        if group.built:
            self._agenda.tell(now_s, self._forming(group))

    def stop(self, name: str, now_s: float) -> None:
        """See World."""
        group = self._groups.get(name)
        self._failed.discard(name)
        takes_s = self._habits.dissolve_s
        if group is not None:
            takes_s = takes_s if group.answers else self._habits.given_up_after_s
            broken = self._steps.break_all(group, "the group was dissolved", now_s)
            self._agenda.tell(now_s, lambda _: broken)
            self.release(group, now_s)
        self._agenda.tell(now_s + takes_s, lambda _: (GroupStopped(name),))

    def adopt(self, name: str, now_s: float) -> None:
        """See World."""
        there = name in self._groups
        answer = GroupFormed(name) if there else GroupFailed(name, "it is not there any more", False)
        self._agenda.tell(now_s + self._habits.answer_after_s, lambda _: (answer,))

    def refuse_next(self) -> None:
        """A node takes no stage of the next group that is ordered."""
        self._refusals += 1

    # ---- what becomes of them

    def arrived(self, load: str, names: Iterable[str], node: WorldNode, now_s: float) -> None:
        """What comes with a load, which the groups called `names` want, is there."""
        for group in [self._groups[name] for name in names if name in self._groups]:
            if load in group.waits:
                group.waits.remove(load)
                group.fetched_s = group.there_s[node.name] = now_s
                self._settle(group, now_s)
                if group.behind and group.built and not group.waits:
                    self._agenda.tell(now_s, self._forming(group))

    def answered(self, group: WorldGroup, now_s: float) -> None:
        """Its first tokens are there."""
        self._fetch(group, Wave.HELD_BACK, now_s)

    def fail(self, group: WorldGroup, reason: str, now_s: float) -> None:
        """Its nodes have reported by the time that it is told."""
        self.release(group, now_s)
        self._tell_failed(GroupFailed(group.name, reason, False), now_s + 2 * self._habits.report_after_s)

    def release(self, group: WorldGroup, now_s: float) -> None:
        """Nothing is left of it, but on nodes that are silent."""
        del self._groups[group.name]
        self._loads.give_up(group.name, now_s)
        for node in group.nodes:
            if node.answers:
                node.release(group.name)
                self._reporting.soon(node, now_s)
                self._on_release(node, now_s)

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
            self.fail(group, f"it was not formed within {timeout_s:.0f} s", now_s)
        return ()

    def _tell_failed(self, failed: GroupFailed, at_s: float) -> None:
        self._failed.add(failed.group)

        def tell(_now_s: float) -> Sequence[Told]:
            known = failed.group in self._failed
            self._failed.discard(failed.group)
            return (failed,) if known else ()

        self._agenda.tell(at_s, tell)

    def _forming(self, group: WorldGroup) -> Happening:
        return lambda at_s: self._formed(group, at_s)


def _weights(placement: Placement, *, sliced: bool) -> list[int]:
    """What each stage reads for a token; of a slice that computes slower, as much more as takes as long."""
    most_bytes = max(stage.reserve_bytes for stage in placement.stages)
    return [s.weight_bytes * most_bytes // s.reserve_bytes if sliced else s.weight_bytes for s in placement.stages]
