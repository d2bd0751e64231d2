"""Whence a node asks for each unit, in which order: decided here alone, for cold starts and for what is brought ahead.

A source is named in one word: a tier of the node itself ("dram", "ssd"), "peer:" and another node's name, or "store". A node
asks for a unit along its list; the store ends every list, and stands at its head as well where it is asked first.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import itemgetter

from schedules.facts import Node, View
from schedules.ledgers.nodes import ranks_of
from schedules.rates import NIC, STORE

PEERS_PER_UNIT = 3
GIVERS = 16
"""So many nodes, those that hold most of a model's units, are looked at for each of them."""
TIERS = ("dram", "ssd")
"""Tiers that a node gives units out of, the faster first."""
_PEER = "peer:"


def from_peer(node: str) -> str:
    """The source that is another node."""
    return f"{_PEER}{node}"


def peer_of(source: str) -> str | None:
    """The node that a source is; None for the store and a node's own tiers."""
    return source[len(_PEER) :] if source.startswith(_PEER) else None


def store_first(asked: Sequence[str]) -> bool:
    """Whether the store is asked before other nodes."""
    return next((source for source in asked if source not in TIERS), None) == STORE


_RANK = itemgetter(0, 1, 2)
_PLACES = {tier: place for place, tier in enumerate(TIERS)}
_Giver = tuple[Mapping[str, str], bytes, Node]


class Sources:
    """For the units of one model, whose digests are given; `holders`, if they are known, as `holders_of` has them. The same
    for the same facts."""

    def __init__(self, digests: Sequence[str], view: View, holders: Sequence[Node] | None = None) -> None:
        self._digests, self._view = digests, view
        holders = holders_of(digests, view) if holders is None else holders
        self._holders = {node.name for node in holders}
        givers = [node for node in holders if node.peer_port]
        self._givers, self._all = list(map(_giver, givers[:GIVERS])), len(givers) <= GIVERS
        self._found: dict[str, Sequence[tuple[str, ...]]] = {}

    def of(self, target: Node) -> Sequence[tuple[str, ...]]:
        """For each of the units whence `target` asks for it, in this order.

        What it has itself it takes from there. Then up to PEERS_PER_UNIT others are asked, and the store at last. Where the
        store limits all nodes both ways are used at once, each for its share of what they give together: the store what it
        was seen to give, the holders what their cards do. Where it was not seen to limit, asking others spares it.
        """
        found = self._found.get(target.name)
        if found is None:
            found = self._found[target.name] = self._of(target)
        return found

    @property
    def first(self) -> Sequence[set[str]]:
        """For each of the units the nodes of which whoever asks others asks one first; none if nobody gives it."""
        return [{node.name for node in best[:2]} for best in self._best]

    def _of(self, target: Node) -> Sequence[tuple[str, ...]]:
        peers = bool(target.peer_port and self._givers)
        if not peers and target.units.keys().isdisjoint(self._digests):
            return self._from_store
        store = ranks_of(self._view).store_bytes_per_s
        if store is not None and peers:
            return self._shared(target, store)
        others = self._from_peers if peers else self._from_store
        if target.name not in self._holders:
            return others
        mine, units, found = from_peer(target.name), target.units, list[tuple[str, ...]]()
        for index, (digest, asked) in enumerate(zip(self._digests, others, strict=True)):
            tier = units.get(digest)
            if tier is not None and peers and mine in asked:
                asked = self._from_others(index, mine)
            found.append((tier, *asked) if tier in _PLACES else asked)  # type: ignore[arg-type]
        return found

    def _shared(self, target: Node, store_bytes_per_s: float) -> Sequence[tuple[str, ...]]:
        """As of `of` where the store limits all nodes."""
        mine, found = from_peer(target.name), list[tuple[str, ...]]()
        owed = zlib.crc32(target.name.encode()) / 2**32  # stages that ask at once do not go in step
        for index, digest in enumerate(self._digests):
            asked = self._from_others(index, mine)
            if (tier := target.units.get(digest)) in TIERS:
                asked = (tier, *asked)
            elif cards := _cards_bytes_per_s(self._best[index], asked[:-1]):
                owed += store_bytes_per_s / (store_bytes_per_s + cards)
                if owed >= 1.0:
                    owed -= 1.0
                    asked = (STORE, *asked)
            found.append(asked)
        return found

    def _from_others(self, index: int, mine: str) -> tuple[str, ...]:
        """Whom the node `mine` asks for what it has not."""
        return *[peer for peer in self._peers[index] if peer != mine][:PEERS_PER_UNIT], STORE

    @cached_property
    def _from_peers(self) -> Sequence[tuple[str, ...]]:
        return [(*peers[:PEERS_PER_UNIT], STORE) for peers in self._peers]

    @cached_property
    def _peers(self) -> Sequence[Sequence[str]]:
        """`_best` as sources."""
        return [[from_peer(node.name) for node in best] for best in self._best]

    @cached_property
    def _from_store(self) -> Sequence[tuple[str, ...]]:
        return [(STORE,)] * len(self._digests)

    @cached_property
    def _best(self) -> Sequence[Sequence[Node]]:
        """For each of the units who gives it, the best first; one more than are asked, for it may be who asks."""
        return [self._rank(digest) for digest in self._digests]

    def _rank(self, digest: str) -> tuple[Node, ...]:
        """Who has it in dram comes before who has it on ssd. Nodes that are equal take turns from unit to unit, so that a
        model comes from all that hold it at once."""
        holders = self._holding(digest, self._givers)
        if not holders and not self._all:
            others = filter(None, map(self._view.node, self._view.holding(digest)))
            givers = [_giver(node) for node in others if node.peer_port and not node.draining]
            holders = self._holding(digest, givers)
        if len(holders) > 1:
            holders.sort(key=_RANK)
        return tuple([node for *_, node in holders[: PEERS_PER_UNIT + 1]])

    def _holding(self, digest: str, among: Sequence[_Giver]) -> list[tuple[int, int, str, Node]]:
        begun = zlib.crc32(f"{digest} ".encode())
        return [
            (place, zlib.crc32(name, begun), node.name, node)
            for units, name, node in among
            if (place := _PLACES.get(units.get(digest, ""))) is not None
        ]


def _giver(node: Node) -> _Giver:
    """What is looked at of a node for each unit."""
    return node.units, node.name.encode(), node


def _cards_bytes_per_s(nodes: Sequence[Node], among: Sequence[str]) -> float:
    """What the cards of those nodes give together that are `among` the sources."""
    return sum([node.rates[NIC].mean for node in nodes if NIC in node.rates and from_peer(node.name) in among])


def holders_of(digests: Sequence[str], view: View) -> list[Node]:
    """The nodes that hold some of the units and do not drain. By name, or if they are more than GIVERS, those first that
    hold most, and of as many those that have more of them in dram."""
    counts = Counter(chain.from_iterable(map(view.holding, digests)))
    nodes = [node for name in counts if (node := view.node(name)) is not None and not node.draining]
    if len(nodes) <= GIVERS:
        return sorted(nodes, key=lambda node: node.name)
    in_dram = {node.name: sum(node.units.get(digest) == "dram" for digest in digests) for node in nodes}
    return sorted(nodes, key=lambda node: (-counts[node.name], -in_dram[node.name], node.name))
