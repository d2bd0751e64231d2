"""Which nodes are there, and which have not been heard for too long."""

from collections.abc import Callable

from schedules.events import NodeReported, NodesHeard
from schedules.ledgers.books import Books
from schedules.limits import LOST_S, SILENT_S
from schedules.replicas.fleet import Fleet
from schedules.wakes import Wakes


class NodeWatch:
    """A node that is silent for SILENT_S gets nothing new; after LOST_S all that runs there is lost, whatever it does then.
    It is a node like others again as soon as it is heard. `leave` is told of one that wants to end."""

    def __init__(self, books: Books, wakes: Wakes, fleet: Fleet, leave: Callable[[str, float], None]) -> None:
        self._books, self._wakes, self._fleet, self._leave = books, wakes, fleet, leave
        self._heard_s: dict[str, float] = {}  # the last that was heard is last; those that fell silent are in the other
        self._silent: dict[str, float] = {}
        self._all_s = float("-inf")  # when all of the first that are not in the second were heard last
        self._woken = False

    def reported(self, event: NodeReported, now_s: float) -> None:
        """The node as it is now."""
        node, nodes = event.node, self._books.nodes
        known = nodes.node(node.name)
        nodes.report(event)
        self._books.memory.report(node)
        self._heard_s.pop(node.name, None)
        self._heard_s[node.name] = now_s
        if self._silent.pop(node.name, None) is not None:
            nodes.hear(node.name)
            known = None
        if known is None or node.device_free_bytes > known.device_free_bytes:
            self._fleet.stir()
        if node.draining and not (known is not None and known.draining):
            self._leave(node.name, now_s)
        self._watch(now_s + SILENT_S)

    def heard(self, event: NodesHeard, now_s: float) -> None:
        """Nodes are what they were."""
        if event.silent:
            before = {name: self._last_s(name) for name in self._heard_s if name in event.silent}
            self._heard_s = before | {name: now_s for name in self._heard_s if name not in event.silent}
        else:
            self._all_s = now_s
        for name in [name for name in self._silent if name not in event.silent]:
            del self._silent[name]
            self._heard_s[name] = now_s
            self._books.nodes.hear(name)
            self._fleet.stir()

    def left(self, name: str, now_s: float) -> None:
        """It is gone."""
        self._heard_s.pop(name, None)
        self._silent.pop(name, None)
        self._books.nodes.leave(name)
        self._books.memory.forget(name)
        self._fleet.lose_node(name, f"node {name} is gone", now_s)

    def unheard(self, name: str) -> None:
        """It did not answer: nothing new goes there until it is heard, however lately that was."""
        if name in self._heard_s:
            self._fall_silent(name)
            self._fleet.stir()

    def _watch(self, at_s: float) -> None:
        """Look then at who was not heard for longest, of all nodes."""
        if not self._woken:
            self._woken = True
            self._wakes.at(at_s, self._look)

    def _look(self, now_s: float) -> None:
        self._woken = False
        while self._heard_s:
            name = next(iter(self._heard_s))
            heard_s = self._last_s(name)
            if now_s < heard_s + SILENT_S:
                self._watch(heard_s + SILENT_S)
                return
            self._fall_silent(name)

    def _last_s(self, name: str) -> float:
        return max(self._heard_s[name], self._all_s)

    def _fall_silent(self, name: str) -> None:
        heard_s = self._silent[name] = self._last_s(name)
        del self._heard_s[name]
        self._books.nodes.silence(name)
        self._lose_at(heard_s + LOST_S, name, heard_s)

    def _lose_at(self, at_s: float, name: str, heard_s: float) -> None:
        self._wakes.at(at_s, lambda then_s: self._lose(name, heard_s, then_s))

    def _lose(self, name: str, heard_s: float, now_s: float) -> None:
        """All that runs there is lost, unless it was heard again; later on what was ordered there before, too."""
        if self._silent.get(name) != heard_s:
            return
        self._fleet.lose_node(name, f"node {name} was not heard for {LOST_S:g} s", now_s)
        self._lose_at(now_s + LOST_S, name, heard_s)
