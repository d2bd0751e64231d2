"""What gets through dram on its way to ssd: for what is brought ahead a node makes room there of what is worth no more."""

from schedules.facts import Node
from schedules.foresight.planning.claims import Claims
from schedules.foresight.retention import Retention

_IN_USE = float("inf")


class Passage:
    """Of the dram of the `first` node at `place`, which keeps what `kept` says, while one unit after the other is brought."""

    def __init__(self, place: int, first: Node, claims: Claims, kept: Retention) -> None:
        pinned, sizes = claims.pinned[place], claims.sizes
        self._kept, self._size_bytes = kept, first.dram_bytes
        self._held = [(kept.otherwise, claims.unknown[place])]
        for digest in claims.there[place]:
            if digest in sizes:
                self._held.append((_IN_USE if digest in pinned else kept.of(digest), sizes[digest]))
        self._stays_bytes = dict[float, int]()
        """What stays beside a unit of some worth."""

    def add(self, digest: str, size_bytes: int) -> None:
        """The unit comes to dram, and is to stay there."""
        self._held.append((self._kept.of(digest), size_bytes))
        self._stays_bytes.clear()

    def lets(self, digest: str, size_bytes: int) -> bool:
        """Whether the unit finds room."""
        own = self._kept.of(digest)
        if own not in self._stays_bytes:
            self._stays_bytes[own] = sum([size for worth, size in self._held if worth > own])
        return self._stays_bytes[own] + size_bytes <= self._size_bytes
