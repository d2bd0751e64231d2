"""Whom to move from a node that lacks room: the knapsack that ServerlessLLM solves, all of its covers tried.

Other than there, what is moved to a node takes room and time of it from who is moved next, what goes to several nodes is
loaded at once, and a large replica covers a small lack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from schedules.placing.decision import Move, Running

MOST_MOVED = 8
"""Of more replicas on a node only those with the fewest tokens are tried."""


@dataclass(frozen=True)
class Way:
    """A replica could go on at that node, where it needs so much memory, after `takes_s` if nobody else goes there."""

    to: str
    needed_bytes: int
    takes_s: float


Movable = tuple[Running, Sequence[Way]]
"""A replica, and where it could go on."""


def cheapest_cover(
    lack_bytes: int, movable: Sequence[Movable], node: str, free_bytes: Mapping[str, int]
) -> tuple[float, tuple[Move, ...]] | None:
    """Which of the replicas on the node make up for what it lacks in the least time, in seconds, and where they go. Of those
    that take equally long the fewest go. None if no choice does."""
    few = sorted(movable, key=lambda each: (each[0].tokens, each[0].group))[:MOST_MOVED]
    best: tuple[float, tuple[Move, ...]] | None = None
    for count in range(1, len(few) + 1):
        for leaving in combinations(few, count):
            if sum(replica.reserved_bytes[node] for replica, _ in leaving) < lack_bytes:
                continue
            found = _settled(leaving, dict(free_bytes))
            if found is not None and (best is None or found[0] < best[0]):
                best = found
    return best


def _settled(leaving: Sequence[Movable], free_bytes: dict[str, int]) -> tuple[float, tuple[Move, ...]] | None:
    """The largest choose first, each where it goes on soonest after those that went there before."""
    moves, busy_s, takes_s = list[Move](), dict[str, float](), 0.0
    for replica, could in sorted(leaving, key=lambda each: (-sum(each[0].reserved_bytes.values()), each[0].group)):
        ways = [
            (way.takes_s + busy_s.get(way.to, 0.0), way.to, way)
            for way in could
            if free_bytes.get(way.to, 0) >= way.needed_bytes
        ]
        if not ways:
            return None
        there_s, to, way = min(ways, key=lambda each: each[:2])
        free_bytes[to] -= way.needed_bytes
        busy_s[to], takes_s = there_s, max(takes_s, there_s)
        moves.append(Move(replica.group, replica.model.name, to, there_s))
    return takes_s, tuple(moves)
