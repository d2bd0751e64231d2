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
        self._found: dict[str, list[tuple[str, ...]]] = {}

    def of(self, target: Node) -> Sequence[tuple[str, ...]]:
        """For each of the units whence `target` asks for it, in this order.

        What it has itself it takes from there. Then up to PEERS_PER_UNIT others are asked, and the store at last. Where the
        store limits all nodes both ways are used at once, each for its share of what they give together: the store what it
        was seen to give, the holders what their cards do. Where it was not seen to limit, asking others spares it.
        """
        holders, peers = self._holders, bool(target.peer_port) and self._holders.givers
        if self._store_bytes_per_s is not None and peers:
            return self._shared(target, self._store_bytes_per_s)
        if not target.units or (target.name not in holders.among and target.units.keys().isdisjoint(self._digests)):
            return self._bare(peers=peers)
        found = holders.lists.get((target.name, peers))
        if found is None:
            found = holders.lists[target.name, peers] = self._of(target, peers=peers)
        return found

    def _of(self, target: Node, *, peers: bool) -> Sequence[tuple[str, ...]]:
        """As `of` where the store limits nobody, or nobody else gives anything."""
        units, found, mine = target.units, list[tuple[str, ...]](), from_peer(target.name)
        for index, (digest, asked) in enumerate(zip(self._digests, self._bare(peers=peers), strict=True)):
            if mine in asked:
                asked = self._asked(index, target.name)
            found.append((tier, *asked) if (tier := units.get(digest)) in TIERS else asked)
        return found

    def _bare(self, *, peers: bool) -> Sequence[tuple[str, ...]]:
        """As `of` for a node that has nothing of the model."""
        lists = self._holders.lists
        found = lists.get(("", peers))
        if found is None:
            best = self._holders.best
            found = lists["", peers] = (
                [(*[from_peer(name) for name in names[:PEERS_PER_UNIT]], STORE) for names in best]
                if peers
                else [(STORE,)] * len(best)
            )
        return found

    def _shared(self, target: Node, store_bytes_per_s: float) -> Sequence[tuple[str, ...]]:
        """As `of` where the store limits all nodes."""
        found = self._found.get(target.name)
        if found is not None:
            return found
        found = self._found[target.name] = list[tuple[str, ...]]()
        owed = zlib.crc32(target.name.encode()) / 2**32  # stages that ask at once do not go in step
        for index, digest in enumerate(self._digests):
            asked = self._asked(index, target.name)
            if (tier := target.units.get(digest)) in TIERS:
                asked = (tier, *asked)
            elif cards := self._cards_bytes_per_s(self._others(index, target.name)):
                owed += store_bytes_per_s / (store_bytes_per_s + cards)
                if owed >= 1.0:
                    owed -= 1.0
                    asked = (STORE, *asked)
            found.append(asked)
        return found

    def _asked(self, index: int, mine: str) -> tuple[str, ...]:
        """Whom the node `mine` asks for a unit that it has not."""
        return *map(from_peer, self._others(index, mine)), STORE

    def _others(self, index: int, mine: str) -> Sequence[str]:
        """The other nodes among these."""
        return [name for name in self._holders.best[index] if name != mine][:PEERS_PER_UNIT]

    def _cards_bytes_per_s(self, names: Sequence[str]) -> float:
        """What the cards of those nodes give together."""
        nodes = [node for name in names if (node := self._view.node(name)) is not None]
        return sum([node.rates[NIC].mean for node in nodes if NIC in node.rates])
