"""A world as tests look at it: orders with their usual values, and what came of them."""

from collections.abc import Iterable
from typing import TypeVar

from schedules.events import Event, NodeReported, RequestProgressed
from schedules.facts import Model, Node
from schedules.systems.system import Startup
from schedules.world.groups import Ask
from schedules.world.habits import Habits
from schedules.world.happenings import CaughtUp, Yielded
from schedules.world.world import World
from tests.schedules.worlds import placed, world_model, world_node

MODEL = world_model("m")
A, B = world_node("a"), world_node("b")
_E = TypeVar("_E", bound=Event | CaughtUp | Yielded)


class Seen:
    """A world, and what it has told with the times of it."""

    def __init__(
        self,
        *nodes: Node,
        models: Iterable[Model] = (MODEL,),
        habits: Habits | None = None,
        startup: Startup | None = None,
    ) -> None:
        startups = {} if startup is None else {node.name: startup for node in nodes or (A, B)}
        self.world = World(nodes or (A, B), models, habits, startups=startups)
        self.events: list[tuple[float, Event | CaughtUp | Yielded]] = []

    def until(self, at_s: float) -> float:
        """Let everything happen up to then."""
        while self.world.next_s <= at_s:
            now_s, events = self.world.happen()
            self.events += [(now_s, event) for event in events]
        return at_s

    def of(self, kind: type[_E]) -> list[tuple[float, _E]]:
        return [(at_s, event) for at_s, event in self.events if isinstance(event, kind)]

    def when(self, kind: type[Event | CaughtUp | Yielded]) -> float:
        """When the only one of its kind was told."""
        ((at_s, _),) = self.of(kind)
        return at_s

    def node(self, name: str) -> Node:
        """As last reported."""
        return [event.node for _, event in self.of(NodeReported) if event.node.name == name][-1]

    def form(self, *nodes: Node, now_s: float = 0.0, name: str = "g", model: Model = MODEL, peer: str = "") -> None:
        self.world.form(name, model.key, placed(model, *nodes, peer=peer), 60.0, now_s)

    def ask(self, request: str, now_s: float, prompt: int = 1, tokens: int = 4, name: str = "g") -> None:
        self.world.run(name, Ask(request, prompt, tokens, tokens), now_s)

    def tokens(self, request: str) -> list[float]:
        """When each landing of it was told."""
        return [at_s for at_s, event in self.of(RequestProgressed) if event.request == request]
