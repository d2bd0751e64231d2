"""From which other nodes a node may fetch a unit, and whether before it asks the object store or after."""

import heapq
import zlib
from collections.abc import Sequence
from statistics import median

from schedules.facts import View
from schedules.rates import NIC, STORE

PEERS_PER_UNIT = 3
TIERS = ("dram", "ssd")
"""Tiers that a node gives units out of, the faster first."""


def choose_peers(digests: Sequence[str], target: str, view: View) -> dict[str, tuple[str, ...]]:
    """Names of up to PEERS_PER_UNIT nodes for each unit that others than `target` give out, the best first.

    Who has it in dram comes before who has it on ssd. Nodes that are equal take turns from unit to unit, so that a
    model comes from all that hold it at once; the result is the same for the same facts.
    """
    givers = [node for node in view.nodes if node.peer_port and node.name != target]
    found: dict[str, tuple[str, ...]] = {}
    for digest in digests:
        holders = [
            (TIERS.index(tier), zlib.crc32(f"{digest} {node.name}".encode()), node.name)
            for node in givers
            if (tier := node.units.get(digest)) in TIERS
        ]
        if holders:
            found[digest] = tuple(name for _, _, name in heapq.nsmallest(PEERS_PER_UNIT, holders))
    return found


def store_first(digests: Sequence[str], target: str, view: View) -> tuple[str, ...]:
    """The units that `target` asks the object store for before those that `choose_peers` names for them.

    Where the store limits all nodes both ways are used at once, each for its share of what they give together: the store
    what it was seen to give, the holders what their cards do. Where it was not seen to limit, asking others spares it.
    """
    stores = [node.rates[STORE].mean for node in view.nodes if STORE in node.rates]
    if not stores:
        return ()
    found, owed = list[str](), zlib.crc32(target.encode()) / 2**32  # stages that ask at once do not go in step
    peers = choose_peers(digests, target, view)
    for digest in digests:
        nodes = [view.node(name) for name in peers.get(digest, ())]
        cards = sum(node.rates[NIC].mean for node in nodes if node is not None and NIC in node.rates)
        if not cards:
            continue
        owed += median(stores) / (median(stores) + cards)
        if owed >= 1.0:
            owed -= 1.0
            found.append(digest)
    return tuple(found)
