"""What nodes bring before anybody asks for it, as they were told: unit by unit, each node one at a time."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from schedules.facts import Model, ModelKey, Unit
from schedules.foresight.plan import Staging
from schedules.world.agenda import Agenda
from schedules.world.happenings import Happening, Told
from schedules.world.loads import Loads
from schedules.world.nodes import WorldNode


class Stagings:
    """See the module. What is told later takes the place of what has not begun."""

    def __init__(
        self,
        models: Mapping[ModelKey, Model],
        nodes: Mapping[str, WorldNode],
        loads: Loads,
        agenda: Agenda[Happening],
    ) -> None:
        self._models, self._nodes, self._loads, self._agenda = models, nodes, loads, agenda
        self._left: dict[str, deque[tuple[Unit, str]]] = {}
        """Units and the tiers that they are to come to, by node."""
        self._coming: set[str] = set()
        """Nodes that one comes to."""

    def begin(self, stagings: Iterable[Staging], now_s: float) -> None:
        """In their order. Of models that are not known, and nodes that are not there, nothing comes."""
        self._left.clear()
        for staging in stagings:
            node, model = self._nodes.get(staging.node), self._models.get(staging.key)
            if node is not None and node.answers and model is not None:
                units = {unit.name: unit for unit in model.units}
                wanted = [(units[name], staging.tier) for name in staging.units if name in units]
                self._left.setdefault(staging.node, deque()).extend(wanted)
        for name in list(self._left):
            if name not in self._coming:
                self._next(self._nodes[name], now_s)

    def arrived(self, wanted: Iterable[str]) -> None:
        """Of a load that those want: if it was staged for a node, that goes on with the next unit."""
        for name in wanted:
            node = name.removeprefix(_FOR)
            if node != name and node in self._coming:
                self._coming.discard(node)
                self._agenda.put(0.0, self._going_on(self._nodes[node]))

    def leave(self, node: WorldNode) -> None:
        """Nothing more comes to it."""
        self._left.pop(node.name, None)
        self._coming.discard(node.name)

    def _going_on(self, node: WorldNode) -> Happening:
        def go_on(now_s: float) -> Sequence[Told]:
            self._next(node, now_s)
            return ()

        return go_on

    def _next(self, node: WorldNode, now_s: float) -> None:
        left = self._left.get(node.name)
        while left and node.name not in self._coming and node.answers:
            unit, tier = left.popleft()
            if self._loads.stage(node, unit, tier, f"{_FOR}{node.name}", now_s):
                self._coming.add(node.name)


_FOR = "staged for "
