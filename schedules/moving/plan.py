"""A move as it is ordered: which replicas make way, who follows them, and where it stands.

A replica that makes way has heirs, which start behind everything that anybody waits for; once those are whole its requests go
on there, one by one, and it ends. To consolidate, to scale up, to migrate and to drain are this, for other reasons.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from schedules.facts import ModelKey, Placement


class Kind(StrEnum):
    """What a move is for: a pipeline becomes whole replicas, one or several; a replica makes room; a node is left."""

    CONSOLIDATE = "consolidate"
    MIGRATE = "migrate"
    DRAIN = "drain"


class Step(StrEnum):
    """Where a move stands. ORDERED and READY wait for MoveGoOn; DONE and GIVEN_UP are its ends.

    Until it is READY nothing has changed for anybody; once it is SWITCHING requests go over.
    """

    ORDERED = "ordered"
    PREPARING = "preparing"
    READY = "ready"
    SWITCHING = "switching"
    DONE = "done"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class Heir:
    """A replica that follows another: `group` is what it will run as, or runs as already."""

    group: str
    placement: Placement


@dataclass(frozen=True)
class Handover:
    """The replica `group` makes way for `heirs`, none if what it has begun ends where it is."""

    group: str
    key: ModelKey
    placement: Placement
    heirs: tuple[Heir, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A move, by a name that is never used twice. `reason` is a sentence for a person; `node` is the one that is freed, if
    that is what it is for; `request` the only one that moves, if it is no replica that makes way. `predicted_s` by name:
    "ready" is until the heirs are whole, "switch" until the requests are over."""

    move: str
    kind: Kind
    handovers: tuple[Handover, ...]
    reason: str
    node: str = ""
    request: str = ""
    wish: str = ""
    """The name of the operator's wish that it follows, "" if it follows none."""
    predicted_s: dict[str, float] = field(default_factory=dict, hash=False)
