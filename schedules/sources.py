"""From which other nodes a node may fetch a unit before it asks the object store."""

import heapq
import zlib
from collections.abc import Sequence

from schedules.facts import View

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
