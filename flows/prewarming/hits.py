"""Where the bytes of cold starts were when they were wanted, as their ledgers say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.wire.phases import FETCH, FROM

TIERS = ("dram", "ssd", "peer", "remote")
"""From the fastest on."""


@dataclass(frozen=True)
class Hits:
    """Of the cold starts of a model: how many there were, how many units of theirs came from which tier, and the sum and the
    worst of their times to the first token."""

    model: str
    starts: int
    units: Mapping[str, int]
    ttft_s: float
    worst_s: float

    def share(self, tier: str) -> float:
        """Of the units, those that came from there; 0 of none."""
        return self.units.get(tier, 0) / (sum(self.units.values()) or 1)


def hits_of(cold_starts: Iterable[Mapping[str, Any]], since_s: float) -> list[Hits]:
    """By model, of those that arrived since then (unix seconds), as `/admin/cold-starts` tells them; the most first."""
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for start in cold_starts:
        if start["arrived_at"] >= since_s:
            by_model.setdefault(str(start["model"]), []).append(start)
    found = [_hits(model, starts) for model, starts in by_model.items()]
    return sorted(found, key=lambda hits: (-hits.starts, hits.model))


def together(hits: Sequence[Hits], name: str) -> Hits:
    """All of them, as if of one model of that name."""
    units: Counter[str] = Counter()
    for each in hits:
        units.update(each.units)
    worst_s = max((each.worst_s for each in hits), default=0.0)
    return Hits(name, sum(each.starts for each in hits), units, sum(each.ttft_s for each in hits), worst_s)


def _hits(model: str, starts: Sequence[Mapping[str, Any]]) -> Hits:
    sources = (
        _tier(phase["where"]) for start in starts for phase in start["phases"] if phase["name"].startswith(FETCH)
    )
    times_s = [float(start["ttft_s"]) for start in starts]
    return Hits(model, len(starts), Counter(sources), sum(times_s), max(times_s))


def _tier(where: str) -> str:
    """The slowest of the places from which a phase says that a unit came."""
    sources = where.rpartition(FROM)[2].split(" and ")
    found = [source if source in TIERS else "peer" for source in sources]
    return max(found, key=TIERS.index)
