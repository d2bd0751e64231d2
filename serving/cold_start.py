"""The ledger: what a cold start spent its time on."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.wire.phases import BUILD_SKELETON, FETCH, TAKE_PROCESS, Phase
from schedules.learning import Lesson, lesson
from schedules.placing.decision import NETWORK

DECIDE, WAIT_FOR_ROOM = "decide", "wait for room"
"""The front end's own phases: the last before the stages are ordered, and the time that a start stood back before it."""
TOKENISE = "tokenise"
"""The part of a prediction that a request's own text took, where the first token waited for it."""
CLOCKS_APART_S = 1.0
ASKED_WITHIN_S = 5.0
"""Nodes are asked for their phases at the first token, and tell what ended before they were asked."""


@dataclass(frozen=True)
class ColdStart:
    """One cold start: `arrived_s` in unix seconds, `ttft_s` from there to the first token, phases in unix seconds.

    `predicted` is what was expected when it was decided, if anything was: JSON with at least ``ttft_s``.
    """

    model: str
    group: str
    nodes: tuple[str, ...]
    arrived_s: float
    ttft_s: float
    phases: tuple[Phase, ...]
    predicted: Mapping[str, Any] | None = None

    @property
    def fetched_s(self) -> float:
        """From the arrival to the last byte that was in its node's memory before the first token."""
        ends = [phase.end_s - self.arrived_s for phase in self.phases if phase.name.startswith(FETCH)]
        return max((end_s for end_s in ends if 0 <= end_s <= self.ttft_s), default=0.0)

    @property
    def formed_s(self) -> float:
        """From the first order's arrival at a node to the group being formed, as nodes measure it; 0 if it is not known."""
        taken = [phase.start_s for phase in self.phases if phase.name == TAKE_PROCESS]
        built = [phase.end_s for phase in self.phases if phase.name == BUILD_SKELETON]
        return max(0.0, max(built) - min(taken)) if taken and built else 0.0

    @property
    def one_clock(self) -> bool:
        """Whether the wall clocks of all machines agree on it. If a phase ended before the request came, or long after the
        first token, one of them is wrong or was set in between, and nothing is to be learned from where phases stand."""
        latest_s = self.ttft_s + ASKED_WITHIN_S + CLOCKS_APART_S
        return all(-CLOCKS_APART_S <= phase.end_s - self.arrived_s <= latest_s for phase in self.phases)

    def as_json(self) -> dict[str, Any]:
        """For the API: times of phases relative to the arrival; a prediction comes with its relative error."""
        shown: dict[str, Any] = {
            "model": self.model,
            "group": self.group,
            "degree": len(self.nodes),
            "nodes": list(self.nodes),
            "arrived_at": self.arrived_s,
            "ttft_s": self.ttft_s,
            "predicted": None if self.predicted is None else dict(self.predicted),
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
        if self.predicted is not None and self.predicted["ttft_s"] > 0:
            shown["prediction_error"] = self.ttft_s / self.predicted["ttft_s"] - 1
        return shown


def lessons_of(starts: Sequence[ColdStart]) -> tuple[Lesson, ...]:
    """What starts teach, which come newest first: oldest first. Those that were not predicted teach nothing."""
    found = []
    for start in reversed(starts):
        predicted = start.predicted or {}
        parts = {name: float(seconds) for name, seconds in predicted.get("parts", {}).items()}
        if "uncorrected_s" in predicted and TOKENISE not in parts and start.one_clock:
            uncorrected_s, slowest = float(predicted["uncorrected_s"]), str(predicted.get("slowest", NETWORK))
            degree, formed_s, fetched_s = len(start.nodes), start.formed_s, start.fetched_s
            found.append(lesson(degree, uncorrected_s, start.ttft_s, slowest, parts, formed_s, fetched_s))
    return tuple(found)


class Ledger:
    """The latest cold starts, newest first. `on_add` hears of each that is added."""

    def __init__(self, kept: int = 256, on_add: Callable[[ColdStart], object] | None = None) -> None:
        self.kept = kept
        self._starts: deque[ColdStart] = deque(maxlen=kept)
        self._on_add = on_add

    def add(self, start: ColdStart) -> None:
        self._starts.appendleft(start)
        if self._on_add is not None:
            self._on_add(start)

    def restore(self, starts: Iterable[ColdStart]) -> None:
        """Put earlier cold starts, newest first, behind those that are here; nobody hears of them."""
        here = {start.group for start in self._starts}
        room = self.kept - len(self._starts)
        self._starts.extend([start for start in starts if start.group not in here][:room])

    def latest(self, model: str | None, limit: int) -> Sequence[ColdStart]:
        """Up to `limit` cold starts, of one model or of all."""
        return [start for start in self._starts if model is None or start.model == model][:limit]
