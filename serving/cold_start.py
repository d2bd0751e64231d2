"""The ledger: what a cold start spent its time on."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.messages import Phase


@dataclass(frozen=True)
class ColdStart:
    """One cold start: `arrived_s` in unix seconds, `ttft_s` from there to the first token, phases in unix seconds."""

    model: str
    group: str
    nodes: tuple[str, ...]
    arrived_s: float
    ttft_s: float
    phases: tuple[Phase, ...]

    def as_json(self) -> dict[str, Any]:
        """For the API: times of phases relative to the arrival."""
        return {
            "model": self.model,
            "group": self.group,
            "degree": len(self.nodes),
            "nodes": list(self.nodes),
            "arrived_at": self.arrived_s,
            "ttft_s": self.ttft_s,
            "phases": [
                {
                    "name": phase.name,
                    "where": phase.where,
                    "start_s": phase.start_s - self.arrived_s,
                    "end_s": phase.end_s - self.arrived_s,
                    "bytes": phase.bytes,
                }
                for phase in self.phases
            ],
        }


class Ledger:
    """The latest cold starts, newest first."""

    def __init__(self, kept: int = 256) -> None:
        self._starts: deque[ColdStart] = deque(maxlen=kept)

    def add(self, start: ColdStart) -> None:
        self._starts.appendleft(start)

    def latest(self, model: str | None, limit: int) -> Sequence[ColdStart]:
        """Up to `limit` cold starts, of one model or of all."""
        return [start for start in self._starts if model is None or start.model == model][:limit]
