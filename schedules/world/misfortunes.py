"""What befalls nodes and groups of the world, and what becomes of them by it."""

from collections.abc import Iterable, Mapping, Sequence

from schedules.events import GroupFound, GroupLost, NodeLeft, SchedulerJoined, SchedulerLost
from schedules.world.agenda import Agenda
from schedules.world.forming import Forming
from schedules.world.groups import WorldGroup
from schedules.world.habits import Habits, Misfortune
from schedules.world.happenings import Happening, Told
from schedules.world.loads import Loads
from schedules.world.nodes import WorldNode
from schedules.world.reporting import Reporting
from schedules.world.stagings import Stagings
from schedules.world.steps import Steps


class Misfortunes:
    """See the module. `groups` are those that are there."""

    def __init__(
        self,
        groups: Mapping[str, WorldGroup],
        nodes: Mapping[str, WorldNode],
        forming: Forming,
        loads: Loads,
        stagings: Stagings,
        steps: Steps,
        agenda: Agenda[Happening],
        reporting: Reporting,
        habits: Habits,
    ) -> None:
        self._groups, self._nodes, self._forming = groups, nodes, forming
        self._loads, self._stagings, self._steps = loads, stagings, steps
        self._agenda, self._reporting, self._habits = agenda, reporting, habits

    def befall(self, what: Misfortune, name: str, now_s: float) -> None:
        """See World."""
        if what is Misfortune.START_REFUSED:
            self._forming.refuse_next()
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
        self._reporting.soon(node, now_s)
        self.end_if_drained(node, now_s)
        self._agenda.tell(now_s + self._habits.drain_grace_s, self._ending(node))

    def end_if_drained(self, node: WorldNode, now_s: float) -> None:
        """It has said by then that it drains, and that it has nothing."""
        if node.draining and not node.reserved:
            self._agenda.tell(now_s + 2 * self._habits.report_after_s, self._ending(node))

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
        self._reporting.count(node, now_s)
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
                self._forming.fail(group, cause, now_s)
            else:
                lost.append(GroupLost(group.name, cause))
                broken += self._steps.break_all(group, cause, now_s)
                self._forming.release(group, now_s)
        return (*lost, *broken)

    def _abandon(self, group: WorldGroup, now_s: float) -> Sequence[Told]:
        found = GroupFound(group.name, group.key, group.placement)
        self._agenda.tell(
            now_s + self._habits.found_after_s, lambda _: (found,) if self._groups.get(group.name) is group else ()
        )
        cause = "the front end that asked is gone"
        return (GroupLost(group.name, cause), *self._steps.break_all(group, cause, now_s))

    def _restore(self, node: WorldNode, now_s: float) -> Sequence[Told]:
        """A node that was silent for longer than its leases has ended what ran there."""
        over = node.silent_since_s is not None and now_s - node.silent_since_s > self._habits.lease_s
        node.begin()
        if node.draining:
            self._drain(node, now_s)
        for name in [name for name in node.reserved if name not in self._groups]:
            node.release(name)
        self._reporting.count(node, now_s)
        report, groups = node.report(), self._on(node)
        if over:
            return (report, *self._lose(groups, f"node {node.name} was silent for too long", now_s))
        for group in groups:
            if group.answers:
                stalled, group.stalled = group.stalled, []
                for happening in stalled:
                    self._agenda.tell(now_s, happening)
        return (report,)
