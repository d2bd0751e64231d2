"""Whence a node asks for each unit, in which order: decided here alone, for cold starts and for what is staged ahead.

A source is named in one word: a tier of the node itself ("dram", "ssd"), "peer:" and another node's name, or "store". A node
asks for a unit along its list; the store ends every list, and stands at its head as well where it is asked first.
"""

import heapq
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from schedules.facts import Node, View
from schedules.nodes import ranks_of
from schedules.rates import NIC, STORE

PEERS_PER_UNIT = 3
GIVERS = 16
"""So many nodes, those that hold most of a model's units, are looked at for each of them."""
TIERS = ("dram", "ssd")
"""Tiers that a node gives units out of, the faster first."""
_PEER = "peer:"
_FROM_STORE = (STORE,)


def from_peer(node: str) -> str:
    """The source that is another node."""
    return f"{_PEER}{node}"


def peer_of(source: str) -> str | None:
    """The node that a source is; None for the store and a node's own tiers."""
    return source[len(_PEER) :] if source.startswith(_PEER) else None


def store_first(asked: Sequence[str]) -> bool:
    """Whether the store is asked before other nodes."""
    return next((source for source in asked if source not in TIERS), None) == STORE


class Sources:
    """For the units of one model, whose digests are given; `holders`, if they are known, as `holders_of` has them. The same
    for the same facts."""

    def __init__(self, digests: Sequence[str], view: View, holders: Sequence[Node] | None = None) -> None:
        self._view = view
        self._store_bytes_per_s = ranks_of(view).store_bytes_per_s
        givers = [node for node in (holders_of(digests, view) if holders is None else holders) if node.peer_port]
        self._givers, self._all = givers[:GIVERS], len(givers) <= GIVERS
        self._ranked: dict[str, tuple[Node, ...]] = {}

    def of(self, target: Node, digests: Sequence[str]) -> list[tuple[str, ...]]:
        """For each of `digests` whence `target` asks for it, in this order.

        What it has itself it takes from there. Then up to PEERS_PER_UNIT others are asked, and the store at last. Where the
        store limits all nodes both ways are used at once, each for its share of what they give together: the store what it
        was seen to give, the holders what their cards do. Where it was not seen to limit, asking others spares it.
        """
        if not self._givers:
            return [(tier, STORE) if (tier := target.units.get(d)) in TIERS else _FROM_STORE for d in digests]
        store, found = self._store_bytes_per_s, list[tuple[str, ...]]()
        owed = zlib.crc32(target.name.encode()) / 2**32  # stages that ask at once do not go in step
        for digest in digests:
            peers = self._peers(target, digest)
            asked = (*(from_peer(peer.name) for peer in peers), STORE)
            tier = target.units.get(digest)
            if tier in TIERS:
                found.append((tier, *asked))
                continue
            cards = sum(peer.rates[NIC].mean for peer in peers if NIC in peer.rates) if store is not None else 0.0
            if store is not None and cards:
                owed += store / (store + cards)
                if owed >= 1.0:
                    owed -= 1.0
                    asked = (STORE, *asked)
            found.append(asked)
        return found

    def _peers(self, target: Node, digest: str) -> list[Node]:
        """Up to PEERS_PER_UNIT others that give the unit, the best first; none if `target` does not ask others."""
        if not target.peer_port:
            return []
        if digest not in self._ranked:
            self._ranked[digest] = self._rank(digest)
        return [node for node in self._ranked[digest] if node.name != target.name][:PEERS_PER_UNIT]

    def _rank(self, digest: str) -> tuple[Node, ...]:
        """Who has it in dram comes before who has it on ssd. Nodes that are equal take turns from unit to unit, so that a
        model comes from all that hold it at once."""
        holders = self._holding(digest, self._givers)
        if not holders and not self._all:
            others = filter(None, map(self._view.node, self._view.holding(digest)))
            holders = self._holding(digest, [node for node in others if node.peer_port and not node.draining])
        best = heapq.nsmallest(PEERS_PER_UNIT + 1, holders, key=lambda held: held[:3])  # one of them may be who asks
        return tuple(node for *_, node in best)

    def _holding(self, digest: str, among: Sequence[Node]) -> list[tuple[int, int, str, Node]]:
        return [
            (TIERS.index(tier), zlib.crc32(f"{digest} {node.name}".encode()), node.name, node)
            for node in among
            if (tier := node.units.get(digest)) in TIERS
        ]


def holders_of(digests: Sequence[str], view: View) -> list[Node]:
    """The nodes that hold some of the units and do not drain. By name, or if they are more than GIVERS, those first that
    hold most, and of as many those that have more of them in dram."""
    counts = Counter(chain.from_iterable(map(view.holding, digests)))
    nodes = [node for name in counts if (node := view.node(name)) is not None and not node.draining]
    if len(nodes) <= GIVERS:
        return sorted(nodes, key=lambda node: node.name)
    in_dram = {node.name: sum(node.units.get(digest) == "dram" for digest in digests) for node in nodes}
    return sorted(nodes, key=lambda node: (-counts[node.name], -in_dram[node.name], node.name))
