"""Whence a node asks for each unit, in which order: decided here alone, for cold starts and for what is brought ahead.

A source is named in one word: a tier of the node itself ("dram", "ssd"), "peer:" and another node's name, or "store". A node
asks for a unit along its list; the store ends every list, and stands at its head as well where it is asked first.
"""

import zlib
from collections.abc import Sequence

from schedules.facts import Node, View
from schedules.ledgers.nodes import ranks_of
from schedules.placing.holders import PEERS_PER_UNIT, TIERS, holders_of
from schedules.rates import NIC, STORE

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


class Sources:
    """For the units of one model, whose digests are given. The same for the same facts."""

    def __init__(self, digests: Sequence[str], view: View) -> None:
        self._digests, self._view = tuple(digests), view
        self._holders = holders_of(self._digests, view)
        self._store_bytes_per_s = ranks_of(view).store_bytes_per_s
        self._found = self._holders.lists if self._store_bytes_per_s is None else {}

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

    def _of(self, target: Node) -> Sequence[tuple[str, ...]]:
        peers, store = bool(target.peer_port) and self._holders.givers, self._store_bytes_per_s
        owed = zlib.crc32(target.name.encode()) / 2**32  # stages that ask at once do not go in step
        found = list[tuple[str, ...]]()
        for index, digest in enumerate(self._digests):
            others = self._others(index, target.name) if peers else []
            asked = (*map(from_peer, others), STORE)
            if (tier := target.units.get(digest)) in TIERS:
                asked = (tier, *asked)
            elif store is not None and others and (cards := self._cards_bytes_per_s(others)):
                owed += store / (store + cards)
                if owed >= 1.0:
                    owed -= 1.0
                    asked = (STORE, *asked)
            found.append(asked)
        return found

    def _others(self, index: int, mine: str) -> Sequence[str]:
        """Whom the node `mine` asks for a unit that it has not."""
        return [name for name in self._holders.best[index] if name != mine][:PEERS_PER_UNIT]

    def _cards_bytes_per_s(self, names: Sequence[str]) -> float:
        """What the cards of those nodes give together."""
        nodes = [node for name in names if (node := self._view.node(name)) is not None]
        return sum([node.rates[NIC].mean for node in nodes if NIC in node.rates])
