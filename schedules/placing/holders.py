"""Who holds units of a model, and who of them gives which: the same as long as these units lie where they do."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain
from operator import itemgetter

from schedules.facts import Node, View
from schedules.ledgers.nodes import ranks_of

PEERS_PER_UNIT = 3
GIVERS = 16
"""So many nodes, those that hold most of a model's units, are looked at for each of them."""
TIERS = ("dram", "ssd")
"""Tiers that a node gives units out of, the faster first."""

_RANK = itemgetter(0, 1, 2)
_PLACES = {tier: place for place, tier in enumerate(TIERS)}
_Giver = tuple[Mapping[str, str], bytes, str]


class Holders:
    """`names` are those of the nodes that hold some of the units and do not drain: by name, or if they are more than GIVERS,
    those first that hold most, and of as many those that have more of them in dram. `givers` are they who give as well.

    `best` has for each of the units who gives it, the best first; one more than are asked, for it may be who asks. Who has
    it in dram comes before who has it on ssd. Nodes that are equal take turns from unit to unit, so that a model comes from
    all that hold it at once. `lists` are for whoever finds something of them that is as good as they are, by node.
    """

    def __init__(self, digests: Sequence[str], view: View) -> None:
        self._digests = digests
        nodes = _holding(digests, view)
        self.names = tuple([node.name for node in nodes])
        givers = [node for node in nodes if node.peer_port]
        self.givers = bool(givers)
        self.best = _best(digests, view, givers)
        self.lists: dict[tuple[str, bool], Sequence[tuple[str, ...]]] = {}
        self._far_and_near: dict[str, tuple[Sequence[int], Sequence[int]]] = {}

    @cached_property
    def first(self) -> Sequence[frozenset[str]]:
        """For each of the units the nodes of which whoever asks others asks one first; none if nobody gives it."""
        return [frozenset(best[:2]) for best in self.best]

    @cached_property
    def among(self) -> frozenset[str]:
        """`names`, to look into."""
        return frozenset(self.names)

    def far_and_near(self, node: Node, sizes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Sums over the units, which have those sizes: `far[i]` bytes of the first i are neither in the node's dram nor on
        its ssd, `near[i]` are on its ssd."""
        found = self._far_and_near.get(node.name)
        if found is None:
            held = [node.units.get(digest) for digest in self._digests]
            found = self._far_and_near[node.name] = (
                (0, *accumulate([0 if tier else size for size, tier in zip(sizes, held, strict=True)])),
                (0, *accumulate([size if tier == "ssd" else 0 for size, tier in zip(sizes, held, strict=True)])),
            )
        return found


def holders_of(digests: tuple[str, ...], view: View) -> Holders:
    """As the view has them; found once as long as they are what they are."""
    finds = ranks_of(view).finds
    found = finds.get(digests)
    if found is None:
        found = Holders(digests, view)
        finds.keep(digests, found)
    assert isinstance(found, Holders)
    return found


def _holding(digests: Sequence[str], view: View) -> list[Node]:
    counts = Counter(chain.from_iterable(map(view.holding, digests)))
    nodes = [node for name in counts if (node := view.node(name)) is not None and not node.draining]
    if len(nodes) <= GIVERS:
        return sorted(nodes, key=lambda node: node.name)
    in_dram = {node.name: sum(node.units.get(digest) == "dram" for digest in digests) for node in nodes}
    return sorted(nodes, key=lambda node: (-counts[node.name], -in_dram[node.name], node.name))


def _best(digests: Sequence[str], view: View, givers: Sequence[Node]) -> Sequence[Sequence[str]]:
    looked_at, more = list(map(_giver, givers[:GIVERS])), len(givers) > GIVERS
    found = []
    for digest in digests:
        ranked = _ranked(digest, looked_at)
        if not ranked and more:
            others = filter(None, map(view.node, view.holding(digest)))
            ranked = _ranked(digest, [_giver(node) for node in others if node.peer_port and not node.draining])
        found.append(ranked)
    return found


def _ranked(digest: str, among: Sequence[_Giver]) -> Sequence[str]:
    begun = zlib.crc32(f"{digest} ".encode())
    holders = [
        (place, zlib.crc32(name_bytes, begun), name)
        for units, name_bytes, name in among
        if (place := _PLACES.get(units.get(digest, ""))) is not None
    ]
    holders.sort(key=_RANK)
    return tuple([name for *_, name in holders[: PEERS_PER_UNIT + 1]])


def _giver(node: Node) -> _Giver:
    """What is looked at of a node for each unit."""
    return node.units, node.name.encode(), node.name
