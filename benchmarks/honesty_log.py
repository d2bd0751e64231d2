"""The log of a live run: what the cluster was when it began, what was asked of it, what befell it, and what came of it.

It is JSON, packed by gzip; times are seconds from the first moment of the trace. Whoever has it needs no cluster.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cluster.wire.phases import Phase
from schedules.facts import Model, Node, Rate, Unit, Widths
from schedules.fitting.seen import SAME_S, Happened
from schedules.learning import Lesson
from schedules.objectives import Objectives
from schedules.traces.happened import Asked
from serving.cold_start import ColdStart
from serving.happened import began

VERSION = 1


class Sent(NamedTuple):
    """A request, of the model in that place of the log, as its client saw it."""

    at_s: float
    model: int
    prompt_tokens: int
    answer_tokens: int
    ttft_s: float
    last_s: float


class Befell(NamedTuple):
    """What befell whom."""

    at_s: float
    what: str
    name: str


@dataclass(frozen=True)
class Log:
    """See the module. `models` and their `objectives` are in the trace's order, `nodes` as they were at the begin; `lessons`
    are what the front end had learned before it; `starts` and `moves` are those that it tells of, oldest first."""

    run: Mapping[str, Any]
    machine: Mapping[str, Any]
    nodes: tuple[Node, ...]
    models: tuple[Model, ...]
    objectives: tuple[Objectives, ...]
    lessons: tuple[Lesson, ...]
    sent: tuple[Sent, ...]
    starts: tuple[ColdStart, ...]
    moves: tuple[Mapping[str, Any], ...]
    troubles: tuple[Befell, ...]

    def column(self, name: str) -> NDArray[np.float64]:
        """One thing of all requests."""
        return np.array([getattr(sent, name) for sent in self.sent], np.float64)

    @property
    def cold(self) -> NDArray[np.bool_]:
        """Of each request whether it came while a replica of its model was being started, or was what that was for."""
        at_s, model = self.column("at_s"), self.column("model")
        found = np.zeros(len(at_s), np.bool_)
        places = {model.name: place for place, model in enumerate(self.models)}
        for start in map(began, self.starts):
            formed_s = start.ordered_s if start.formed_s is None else start.formed_s
            found |= (model == places[start.model]) & (at_s >= start.arrived_s - SAME_S) & (at_s < formed_s)
        return found

    @property
    def happened(self) -> Happened:
        """What a world is fitted to."""
        cold = self.cold
        asked = tuple(
            Asked(self.models[each.model].name, each.at_s, each.prompt_tokens, each.answer_tokens, each.answer_tokens,
                  ttft_s=each.ttft_s, last_s=each.last_s, cold=bool(cold[place]))
            for place, each in enumerate(self.sent)
        )  # fmt: skip
        starts = tuple(sorted(map(began, self.starts), key=lambda start: start.arrived_s))
        return Happened(0.0, float(self.column("at_s").max()) + 1.0, starts, asked)

    def write(self, path: Path) -> None:
        """The same log is the same file."""
        told = (
            {"version": VERSION} | asdict(replace(self, starts=())) | {"starts": [_start_json(s) for s in self.starts]}
        )
        path.write_bytes(gzip.compress(_rounded(json.dumps(told)).encode(), mtime=0))

    @classmethod
    def read(cls, path: Path) -> Self:
        """ValueError if it is no such log."""
        found = json.loads(gzip.decompress(path.read_bytes()))
        if found.pop("version", None) != VERSION:
            raise ValueError(f"{path} is no log of version {VERSION}")
        return cls(
            found["run"], found["machine"],
            tuple(_node(node) for node in found["nodes"]),
            tuple(_model(model) for model in found["models"]),
            tuple(Objectives(**each) for each in found["objectives"]),
            tuple(Lesson(**each) for each in found["lessons"]),
            tuple(Sent(*each) for each in found["sent"]),
            tuple(_start(start) for start in found["starts"]),
            tuple(found["moves"]),
            tuple(Befell(*each) for each in found["troubles"]),
        )  # fmt: skip


def _rounded(text: str) -> str:
    """Microseconds are enough."""
    return json.dumps(json.loads(text, parse_float=lambda digits: round(float(digits), 6)), separators=(",", ":"))


def _node(found: dict[str, Any]) -> Node:
    rates = {name: Rate(**rate) for name, rate in found["rates"].items()}
    return Node(**found | {"rates": rates, "groups": tuple(found["groups"])})


def _model(found: dict[str, Any]) -> Model:
    widths = None if found["widths"] is None else Widths(**found["widths"])
    return Model(**found | {"units": tuple(Unit(**unit) for unit in found["units"]), "widths": widths})


def _start_json(start: ColdStart) -> dict[str, Any]:
    phases = [(phase.name, phase.where, phase.start_s, phase.end_s, phase.bytes) for phase in start.phases]
    return asdict(start) | {"phases": phases}


def _start(found: dict[str, Any]) -> ColdStart:
    phases = tuple(Phase(*phase) for phase in found["phases"])
    return ColdStart(**found | {"nodes": tuple(found["nodes"]), "phases": phases})
