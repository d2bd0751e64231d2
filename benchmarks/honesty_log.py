"""The log of a live run: what the cluster was when it began, what was asked of it, what befell it, and what came of it.

It is JSON, packed by gzip; times are seconds from the first moment of the trace. Whoever has it needs no cluster.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cluster.wire.phases import Phase
from schedules.facts import Model, Node, Rate, Unit, Widths
from schedules.fitting.seen import SAME_S, Began, Happened
from schedules.learning import Lesson
from schedules.objectives import Objectives
from schedules.traces.happened import Asked
from serving.cold_start import ColdStart, lessons_of
from serving.history.happened import began

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
    """See the module. `models` and their `objectives` are in the trace's order, `nodes` as they were at its begin. What came
    before it, one request at a time, has times below zero: by that a world may be calibrated. `starts` and `moves` are those
    that the front end tells of, oldest first."""

    run: Mapping[str, Any]
    machine: Mapping[str, Any]
    nodes: tuple[Node, ...]
    models: tuple[Model, ...]
    objectives: tuple[Objectives, ...]
    sent: tuple[Sent, ...]
    starts: tuple[ColdStart, ...]
    moves: tuple[Mapping[str, Any], ...]
    troubles: tuple[Befell, ...]

    @property
    def trace(self) -> tuple[Sent, ...]:
        """The requests that are replayed."""
        return tuple(each for each in self.sent if each.at_s >= 0.0)

    def column(self, name: str) -> NDArray[np.float64]:
        """One thing of all requests that are replayed."""
        return np.array([getattr(each, name) for each in self.trace], np.float64)

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """What the front end had learned before."""
        return lessons_of([start for start in reversed(self.starts) if start.arrived_s < 0.0])

    @property
    def replayed(self) -> Happened:
        """What there is to compare with."""
        return self._happened(0.0, float("inf"))

    @property
    def before(self) -> Happened:
        """What a world may be fitted to."""
        return self._happened(self.sent[0].at_s - 1.0, 0.0)

    def _happened(self, since_s: float, until_s: float) -> Happened:
        starts = [began(start) for start in self.starts if since_s <= start.arrived_s < until_s]
        asked = [self._asked(each, starts) for each in self.sent if since_s <= each.at_s < until_s]
        return Happened(since_s, until_s, tuple(starts), tuple(asked))

    def _asked(self, sent: Sent, starts: Iterable[Began]) -> Asked:
        """It was cold if it came while a replica of its model was being started, or was what that was for."""
        model, answer = self.models[sent.model].name, sent.answer_tokens
        cold = any(
            start.arrived_s - SAME_S <= sent.at_s < (start.formed_s or start.ordered_s)
            for start in starts
            if start.model == model
        )
        return Asked(
            model, sent.at_s, sent.prompt_tokens, answer, answer, ttft_s=sent.ttft_s, last_s=sent.last_s, cold=cold
        )

    def write(self, path: Path) -> None:
        """The same log is the same file."""
        told = (
            {"version": VERSION} | asdict(replace(self, starts=())) | {"starts": [_start_json(s) for s in self.starts]}
        )
        path.write_bytes(gzip.compress(_rounded(json.dumps(told)).encode(), mtime=0))

    @classmethod
    def read(cls, path: Path) -> Self:
        """ValueError if it is no such log, OSError if it cannot be read."""
        try:
            found = json.loads(gzip.decompress(path.read_bytes()))
            if found.pop("version", None) != VERSION:
                raise ValueError(f"{path} is no log of version {VERSION}")
            return cls(
                found["run"], found["machine"],
                tuple(_node(node) for node in found["nodes"]),
                tuple(_model(model) for model in found["models"]),
                tuple(Objectives(**each) for each in found["objectives"]),
                tuple(Sent(*each) for each in found["sent"]),
                tuple(_start(start) for start in found["starts"]),
                tuple(found["moves"]),
                tuple(Befell(*each) for each in found["troubles"]),
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError, EOFError) as error:
            raise ValueError(f"{path} is no log of a live run: {type(error).__name__}: {error}") from error


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
