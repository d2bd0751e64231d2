"""All nodes as they are heard, kept as decisions look them up: what a report costs goes by what it changes.

A node that fell silent is not in the view, one that drains is and says so. Knows no clock: whoever has one tells of silence.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import median

from schedules.estimates import KnownSpeeds, Speeds
from schedules.events import NodeReported
from schedules.facts import Node, Ranks, View
from schedules.ledgers.finds import Finds
from schedules.ledgers.links import nic_link, out_link
from schedules.ledgers.unit_holders import UnitHolders
from schedules.rates import NIC, STORE

_Keys = tuple[tuple[int, str], tuple[float, int, str]]


class Nodes:
    """See the module. A view is good until the nodes change. `epoch` grows whenever there are others that may be used."""

    def __init__(self) -> None:
        self._heard: dict[str, Node] = {}
        self._shown: dict[str, Node] = {}
        self._names: list[str] = []
        self._nodes: list[Node] = []
        self._drained: set[str] = set()
        self._on_gpus: set[str] = set()
        self._holders = UnitHolders()
        self._by_memory: list[tuple[int, str]] = []
        self._by_network: list[tuple[float, int, str]] = []
        self._links = _LinkRates()
        self._speeds, self._finds = KnownSpeeds(), Finds()
        self._view: View | None = None
        self.epoch = 0

    def node(self, name: str) -> Node | None:
        """As it was last heard, silent or not; None if it is not there."""
        return self._heard.get(name)

    def drained(self, names: Iterable[str]) -> bool:
        """Whether nothing new goes to one of these, by an operator's wish or since it says so itself."""
        for name in names:
            node = self._heard.get(name)
            if name in self._drained or (node is not None and node.draining):
                return True
        return False

    # Asked with every request, where a view, which changes with every report, would be made for it alone.

    def speeds(self, name: str) -> Speeds | None:
        """What the node does in the mean; None if that was not measured, or it is not there."""
        node = self._heard.get(name)
        return self._speeds.of(name, node.rates)[0] if node is not None else None

    @property
    def gpus(self) -> bool:
        """Whether any of those that are heard computes on a GPU."""
        return bool(self._on_gpus)

    @property
    def most_free_bytes(self) -> int:
        """What one more stage can have on the node with most, but for what is promised and not yet reserved."""
        return -self._by_memory[0][0] if self._by_memory else 0

    @property
    def largest_bytes(self) -> int:
        """What a stage could have on the node with most if nothing else ran anywhere."""
        return max([node.device_bytes - node.context_bytes for node in self._shown.values()], default=0)

    @property
    def silent(self) -> bool:
        """Whether there are nodes that fell silent, which may be heard again or be gone."""
        return len(self._shown) < len(self._heard)

    @property
    def link_rates(self) -> Mapping[str, float]:
        """Bytes per second of every node's links, silent ones' too, and of the object store if it was seen to limit nodes."""
        return self._links.rates

    def take_changed_links(self) -> dict[str, float | None]:
        """The links whose rates are others than when this was asked last; None for those without a rate now."""
        return self._links.take_changed()

    def view(self) -> View:
        """The nodes that are heard, without copying what is known of them."""
        if self._view is None:
            store = self._links.rates.get(STORE)
            ranks = Ranks(
                self._shown, self._by_memory, self._by_network, store, self._speeds, bool(self._on_gpus),
                len(self._on_gpus) == len(self._shown), self._finds,
            )  # fmt: skip
            self._view = View(tuple(self._nodes), self._holders, ranks)
        return self._view

    def report(self, reported: NodeReported) -> None:
        """The node is heard, and is so from now on. Of one that is new all units are gained, whatever is said."""
        node = reported.node
        known = self._heard.get(node.name)
        gained = reported.gained if known is not None else node.units
        self._holders.gain(node.name, gained)
        self._finds.forget(gained)
        self._forget_units(node.name, reported.lost)
        self._heard[node.name] = node
        if known is None or known.rates is not node.rates:
            self._links.report(node)
        self._show(node)

    def leave(self, name: str) -> None:
        """The node is gone; one that is not known is gone already."""
        node = self._heard.pop(name, None)
        if node is not None:
            self._hide(name)
            self._forget_units(name, node.units)
            self._links.leave(name)

    def silence(self, name: str) -> None:
        """The node was not heard for too long to be asked for anything. Its links keep their rates."""
        self._hide(name)

    def hear(self, name: str) -> None:
        """The node is heard again, as it was."""
        if name in self._heard and name not in self._shown:
            self._show(self._heard[name])

    def drain(self, name: str) -> None:
        """Nothing new goes to the node, known or not."""
        self._drained.add(name)
        if name in self._shown:
            self._show(self._heard[name])

    def undrain(self, name: str) -> None:
        """It is a node like others again."""
        self._drained.discard(name)
        if name in self._shown:
            self._show(self._heard[name])

    def _show(self, heard: Node) -> None:
        name = heard.name
        node = replace(heard, draining=True) if name in self._drained else heard
        before = self._shown.get(name)
        self._shown[name], self._view = node, None
        if node.gpu:
            self._on_gpus.add(name)
        place = bisect_left(self._names, name)
        if before is None or before.draining is not node.draining:
            self.epoch += 1
        if before is None or before.draining is not node.draining or before.peer_port != node.peer_port:
            self._finds.clear()
        if before is None:
            self._names.insert(place, name)
            self._nodes.insert(place, node)
        else:
            self._nodes[place] = node
        old, new = _keys(before) if before is not None else None, _keys(node)
        if old != new:
            self._rank(old, new)

    def _hide(self, name: str) -> None:
        node = self._shown.pop(name, None)
        if node is not None:
            self._view = None
            self._finds.clear()
            self._on_gpus.discard(name)
            self.epoch += 1
            place = bisect_left(self._names, name)
            del self._names[place], self._nodes[place]
            self._rank(_keys(node), None)

    def _rank(self, old: _Keys | None, new: _Keys | None) -> None:
        if old is not None:
            del self._by_memory[bisect_left(self._by_memory, old[0])]
            del self._by_network[bisect_left(self._by_network, old[1])]
        if new is not None:
            insort(self._by_memory, new[0])
            insort(self._by_network, new[1])

    def _forget_units(self, name: str, digests: Mapping[str, str] | tuple[str, ...]) -> None:
        self._finds.forget(digests)
        self._holders.lose(name, digests)


class _LinkRates:
    """A node that was not measured yet is taken for the median of those that were: no limit at all would make it the
    best. A card is as fast as the node of its box says that was heard last."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self._changed: dict[str, float | None] = {}
        self._cards: dict[str, str] = {}
        self._nics: dict[str, float] = {}
        self._stores: dict[str, float] = {}
        self._unmeasured: set[str] = set()
        self._usual: float | None = None
        self._stale = False

    def take_changed(self) -> dict[str, float | None]:
        changed, self._changed = self._changed, {}
        return changed

    def report(self, node: Node) -> None:
        name, nic, store = node.name, node.rates.get(NIC), node.rates.get(STORE)
        self._cards[name] = node.card
        if nic is None:
            self._unmeasured.add(name)
        else:
            self._unmeasured.discard(name)
            self._set_card(name, nic.mean)
        self._note(name, nic.mean if nic is not None else None, store.mean if store is not None else None)
        if nic is None:
            self._set_card(name, self._usual)

    def leave(self, name: str) -> None:
        self._unmeasured.discard(name)
        card = self._cards.pop(name, name)
        if card == name or card not in self._cards.values():
            self._set_link(nic_link(card), None)
            self._set_link(out_link(card), None)
        self._note(name, None, None)

    def _note(self, name: str, nic: float | None, store: float | None) -> None:
        self._stale = _set(self._nics, name, nic) or self._stale
        if self._stale and self._unmeasured:
            self._usual, self._stale = median(self._nics.values()) if self._nics else None, False
            for other in self._unmeasured:
                self._set_card(other, self._usual)
        if _set(self._stores, name, store):
            self._set_link(STORE, median(self._stores.values()) if self._stores else None)

    def _set_card(self, name: str, bytes_per_s: float | None) -> None:
        card = self._cards[name]
        self._set_link(nic_link(card), bytes_per_s)
        self._set_link(out_link(card), bytes_per_s)

    def _set_link(self, link: str, bytes_per_s: float | None) -> None:
        if _set(self.rates, link, bytes_per_s):
            self._changed[link] = bytes_per_s


def _set(known: dict[str, float], name: str, value: float | None) -> bool:
    """Whether that is news."""
    if known.get(name) == value:
        return False
    if value is None:
        del known[name]
    else:
        known[name] = value
    return True


def ranks_of(view: View) -> Ranks:
    """What Nodes keeps of its view, for one that somebody else has made."""
    if view.ranks is not None:
        return view.ranks
    keys = [found for node in view.nodes if (found := _keys(node)) is not None]
    stores = [node.rates[STORE].mean for node in view.nodes if STORE in node.rates]
    return Ranks(
        {node.name: node for node in view.nodes},
        sorted(by_memory for by_memory, _ in keys),
        sorted(by_network for _, by_network in keys),
        median(stores) if stores else None,
        KnownSpeeds(),
        any(node.gpu for node in view.nodes),
        all(node.gpu for node in view.nodes),
        Finds(),
    )


def link_rates(view: View) -> dict[str, float]:
    """Bytes per second of the links of every node of a view, as Nodes has them."""
    found = _LinkRates()
    for node in sorted(view.nodes, key=lambda node: NIC not in node.rates):  # the usual rate is taken once
        found.report(node)
    return found.rates


def _keys(node: Node) -> _Keys | None:
    """What the node is ranked by; None if it may not be given stages."""
    if node.draining:
        return None
    nic, free_bytes = node.rates.get(NIC), node.stage_free_bytes
    return (-free_bytes, node.name), (-nic.mean if nic is not None else 0.0, -free_bytes, node.name)
