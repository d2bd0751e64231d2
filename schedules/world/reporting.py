"""What nodes of the world tell of themselves: each now and then, and soon after it has changed."""

from collections.abc import Mapping, Sequence

from schedules.events import NodesHeard
from schedules.world.agenda import Agenda
from schedules.world.habits import Habits
from schedules.world.happenings import Happening, Told
from schedules.world.nodes import WorldNode
from schedules.world.usage import Usage


class Reporting:
    """Of all `nodes`, from `begin` on. What they have in use by then is counted in `usage`. If it is `terse` they tell what
    has changed alone, and now and then, in one word for all, that they are there."""

    def __init__(
        self, nodes: Mapping[str, WorldNode], agenda: Agenda[Happening], usage: Usage, habits: Habits, *, terse: bool
    ) -> None:
        self._nodes, self._agenda, self._usage, self._habits, self._terse = nodes, agenda, usage, habits, terse
        self._beside: dict[str, list[str]] = {}
        for node in nodes.values():
            self._beside.setdefault(node.card, []).append(node.name)
        self._changed: set[str] = set()

    def begin(self, now_s: float) -> None:
        """All of them tell how they stand at once."""
        every_s = self._habits.report_every_s
        for index, node in enumerate(self._nodes.values()):
            self.soon(node, now_s - self._habits.report_after_s)
            if not self._terse:
                offset_s = every_s * (1 + (index + 0.5) / len(self._nodes))
                self._agenda.tell(now_s + offset_s, self._always(node))
        if self._terse:
            self._agenda.tell(now_s + every_s, self._hear_always)

    def soon(self, node: WorldNode, now_s: float) -> None:
        """It has changed: with all others that do until then, among them those of its box, who have what it has."""
        self.count(node, now_s)
        if not self._changed:
            self._agenda.tell(now_s + self._habits.report_after_s, lambda _: self._report_changed())
        self._changed.update(self._beside[node.card])

    def count(self, node: WorldNode, now_s: float) -> None:
        """What is in the dram of a box counts as its first node's."""
        first = self._nodes[self._beside[node.card][0]]
        self._usage.stands(first.name, first.reserved_bytes, first.dram_used_bytes, now_s)
        if node is not first:
            self._usage.stands(node.name, node.reserved_bytes, 0, now_s)

    def _always(self, node: WorldNode) -> Happening:
        def tell(now_s: float) -> Sequence[Told]:
            self._agenda.tell(now_s + self._habits.report_every_s, tell)
            return (node.report(),) if node.answers else ()

        return tell

    def _hear_always(self, now_s: float) -> Sequence[Told]:
        self._agenda.tell(now_s + self._habits.report_every_s, self._hear_always)
        return (NodesHeard(frozenset([node.name for node in self._nodes.values() if not node.answers])),)

    def _report_changed(self) -> Sequence[Told]:
        changed, self._changed = [self._nodes[name] for name in sorted(self._changed)], set()
        return [node.report() for node in changed if node.answers]
