"""The nodes as they last reported themselves, kept so that a decision finds what it looks at."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from schedules.events import NodeReported
from schedules.facts import Node, View
from schedules.placing.survey import link_rates


class Nodes:
    """`epoch` grows when nodes come or go, or may be used or not."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._holders: dict[str, set[str]] = {}
        self._silent: set[str] = set()
        self._drained: set[str] = set()
        self._view: View | None = None
        self._rates: Mapping[str, float] | None = None
        self.epoch = 0

    def report(self, event: NodeReported) -> None:
        node = event.node
        known = self._nodes.get(node.name)
        gained = node.units if known is None else event.gained
        for digest in event.lost if known is not None else ():
            self._holders[digest].discard(node.name)
        for digest in gained:
            self._holders.setdefault(digest, set()).add(node.name)
        self._nodes[node.name] = node
        self._view = None
        if known is None:
            self.epoch += 1
        if known is None or known.rates != node.rates:
            self._rates = None

    def leave(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        for digest in node.units if node is not None else ():
            self._holders[digest].discard(name)
        self._silent.discard(name)
        self._changed()

    def silence(self, name: str) -> None:
        self._silent.add(name)
        self._changed()

    def hear(self, name: str) -> None:
        self._silent.discard(name)
        self._changed()

    def drain(self, name: str) -> None:
        self._drained.add(name)
        self._changed()

    def undrain(self, name: str) -> None:
        self._drained.discard(name)
        self._changed()

    def _changed(self) -> None:
        self._view = self._rates = None
        self.epoch += 1

    def node(self, name: str) -> Node | None:
        return self._nodes.get(name)

    @property
    def any(self) -> bool:
        return bool(self._nodes)

    def draining(self, names: Iterable[str]) -> bool:
        return not self._drained.isdisjoint(names)

    def view(self) -> View:
        if self._view is None:
            away = self._silent | self._drained
            nodes = tuple(
                replace(node, draining=True) if name in away else node for name, node in sorted(self._nodes.items())
            )
            self._view = View(nodes, self._holders)
        return self._view

    @property
    def link_rates(self) -> Mapping[str, float]:
        if self._rates is None:
            self._rates = link_rates(self.view())
        return self._rates
