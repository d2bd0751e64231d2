"""The log of a live run: what the cluster was when it began, what was asked of it, what befell it, and what came of it.

It is JSON, packed by gzip; times are seconds from the first moment of the trace. Whoever has it needs no cluster.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cluster.wire.phases import FETCH, FIRST_STEP
from schedules.facts import Model, Node, Rate, Unit, Widths
from schedules.learning import Lesson
from schedules.objectives import Objectives

VERSION = 1
_FROM = " from "


class Sent(NamedTuple):
    """A request, of the model in that place of the log, as its client saw it; no last token is 0."""

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
class Start:
    """A cold start in the front end's ledger. It is for the request that came at `arrived_s`; all other seconds count from
    there. `bytes_from` are those that were fetched, by "remote", "ssd" and "peer"."""

    model: str
    group: str
    nodes: tuple[str, ...]
    arrived_s: float
    ttft_s: float
    predicted_s: float | None
    parts: Mapping[str, float]
    ordered_s: float
    formed_s: float
    fetched_s: float
    stepped_s: float
    bytes_from: Mapping[str, int]

    @classmethod
    def told(cls, start: Mapping[str, Any], begin_unix_s: float) -> Self:
        """As the front end tells it over HTTP."""
        phases = start["phases"]
        fetches = [phase for phase in phases if phase["name"].startswith(FETCH)]
        found: dict[str, int] = {}
        for phase in fetches:
            source = phase["where"].partition(_FROM)[2].partition(" ")[0]
            found[source] = found.get(source, 0) + phase["bytes"]
        predicted = start["predicted"] or {}
        steps = [phase["end_s"] - phase["start_s"] for phase in phases if phase["name"] == FIRST_STEP]
        return cls(
            start["model"], start["group"], tuple(start["nodes"]), start["arrived_at"] - begin_unix_s, start["ttft_s"],
            predicted.get("ttft_s"), predicted.get("parts", {}),
            max((phase["end_s"] for phase in phases if phase["where"] == "front end"), default=0.0),
            max((phase["end_s"] for phase in phases if phase["name"] == "build skeleton"), default=0.0),
            max((phase["end_s"] for phase in fetches), default=0.0),
            sum(steps), found,
        )  # fmt: skip


@dataclass(frozen=True)
class Log:
    """See the module. `models` and their `objectives` are in the trace's order, `nodes_after` are the nodes at the end, and
    `lessons` what the front end had learned before the begin; `moves` are as it tells them, but for the times."""

    run: Mapping[str, Any]
    machine: Mapping[str, Any]
    nodes: tuple[Node, ...]
    nodes_after: tuple[Node, ...]
    models: tuple[Model, ...]
    objectives: tuple[Objectives, ...]
    lessons: tuple[Lesson, ...]
    sent: tuple[Sent, ...]
    starts: tuple[Start, ...]
    moves: tuple[Mapping[str, Any], ...]
    troubles: tuple[Befell, ...]

    def column(self, name: str) -> NDArray[np.float64]:
        """One thing of all requests."""
        return np.array([getattr(sent, name) for sent in self.sent], np.float64)

    def write(self, path: Path) -> None:
        """The same log is the same file."""
        text = json.dumps({"version": VERSION} | asdict(self), default=list)
        path.write_bytes(gzip.compress(_rounded(text).encode(), mtime=0))

    @classmethod
    def read(cls, path: Path) -> Self:
        """ValueError if it is no such log."""
        found = json.loads(gzip.decompress(path.read_bytes()))
        if found.pop("version", None) != VERSION:
            raise ValueError(f"{path} is no log of version {VERSION}")
        return cls(
            found["run"], found["machine"],
            tuple(_node(node) for node in found["nodes"]), tuple(_node(node) for node in found["nodes_after"]),
            tuple(_model(model) for model in found["models"]),
            tuple(Objectives(**each) for each in found["objectives"]),
            tuple(Lesson(**each) for each in found["lessons"]),
            tuple(Sent(*each) for each in found["sent"]),
            tuple(Start(**start | {"nodes": tuple(start["nodes"])}) for start in found["starts"]),
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
