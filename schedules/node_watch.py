"""Which nodes are there, and which have not been heard for too long."""

from schedules.events import NodeReported
from schedules.ledgers.books import Books
from schedules.limits import LOST_S, SILENT_S
from schedules.replicas.fleet import Fleet
from schedules.wakes import Wakes


class NodeWatch:
    """A node that is silent for SILENT_S gets nothing new; after LOST_S all that runs there is lost, whatever it does then.
    It is a node like others again as soon as it is heard."""

    def __init__(self, books: Books, wakes: Wakes, fleet: Fleet) -> None:
        self._books, self._wakes, self._fleet = books, wakes, fleet
        self._heard_s: dict[str, float] = {}
        self._watched: set[str] = set()
        self._silent: set[str] = set()

    def reported(self, event: NodeReported, now_s: float) -> None:
        """The node as it is now."""
        node, nodes = event.node, self._books.nodes
        known = nodes.node(node.name)
        nodes.report(event)
        self._books.memory.report(node)
        self._heard_s[node.name] = now_s
        if node.name in self._silent:
            self._silent.discard(node.name)
            nodes.hear(node.name)
            known = None
        if known is None or node.device_free_bytes > known.device_free_bytes:
            self._fleet.stir()
        if node.name not in self._watched:
            self._watched.add(node.name)
            self._wakes.at(now_s + SILENT_S, lambda then_s: self._look(node.name, then_s))

    def left(self, name: str, now_s: float) -> None:
        """It is gone."""
        self._heard_s.pop(name, None)
        self._silent.discard(name)
        self._books.nodes.leave(name)
        self._books.memory.forget(name)
        self._fleet.lose_node(name, f"node {name} is gone", now_s)

    def _look(self, name: str, now_s: float) -> None:
        heard_s = self._heard_s.get(name)
        if heard_s is None:
            self._watched.discard(name)
            return
        again_s = heard_s + SILENT_S
        if now_s >= again_s:
            if name not in self._silent:
                self._silent.add(name)
                self._books.nodes.silence(name)
            again_s = heard_s + LOST_S
            if now_s >= again_s:
                again_s = now_s + LOST_S
                self._fleet.lose_node(name, f"node {name} was not heard for {LOST_S:g} s", now_s)
        self._wakes.at(again_s, lambda then_s: self._look(name, then_s))
