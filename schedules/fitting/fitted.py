"""A world that was fitted to a cluster: its nodes, what is no node's, and how good the fit is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schedules.facts import Node
from schedules.simulation.comparing import Comparison, Matched
from schedules.systems.system import Startup
from schedules.world.habits import Habits


class Whence(StrEnum):
    """Where a quantity's value is from: starts on its node, on nodes like it, what the node reports, or what was missing when
    what had happened was played."""

    OWN = "its own starts"
    ALIKE = "nodes like it"
    REPORTED = "as reported"
    PLAYED = "playing it again"


@dataclass(frozen=True)
class Quantity:
    """One quantity (schedules.rates has names and units; STEP, HOP, RECEIVE and TAIL are ours, in seconds) of a node, or of
    the cluster if that is "". `spread` is how far apart nine of ten samples lie, as a share of the `value`; samples that were
    `outliers` are not among the others. `reported` is None for what no node reports."""

    node: str
    name: str
    value: float
    reported: float | None
    whence: Whence
    samples: int = 0
    outliers: int = 0
    spread: float = 0.0


STEP, HOP, RECEIVE, TAIL = "step", "hop", "receive", "tail"
"""Seconds: of a step beside its weights; of a token's way from stage to stage; from a request's arrival to the router and of
its tokens back; of a start from all being there to its first step."""


@dataclass(frozen=True)
class Played:
    """Part of a history, played: TTFT of cold requests and of all, and of the starts one by one; None where there is nothing
    to compare. So many starts were seen in it and played."""

    cold: Comparison | None
    starts: Matched | None
    all: Comparison | None
    starts_seen: int
    starts_played: int


@dataclass(frozen=True)
class Quality:
    """The last part of the history, `requests` from `since_s` to `until_s` (unix seconds), played by what nodes report, and
    by what was fitted to the part before."""

    since_s: float
    until_s: float
    requests: int
    reported: Played
    fitted: Played


@dataclass(frozen=True)
class Fitted:
    """`nodes` have fitted rates and empty tiers; `startups` are by their names. `source` says of what history."""

    nodes: tuple[Node, ...]
    habits: Habits = field(default_factory=Habits)
    startups: Mapping[str, Startup] = field(default_factory=dict)
    quantities: tuple[Quantity, ...] = ()
    quality: Quality | None = None
    source: str = ""
