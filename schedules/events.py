"""What may happen, as the brain is told of it: facts and wishes, frozen, the unit in every name.

Whoever tells them knows what time it is, and says so beside the event. `group` and `request` are names that are never used
twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schedules.facts import Model, ModelKey, Node, Placement
from schedules.foresight.plan import Plan
from schedules.learning import Lesson
from schedules.objectives import Objectives
from schedules.placing.decision import Decision

# ---- models


@dataclass(frozen=True)
class ModelKnown:
    """A version of a model can be asked for. Of two versions of one name the one with the larger `opened` is the newer."""

    model: Model
    objectives: Objectives
    opened: int = 0


# ---- requests


@dataclass(frozen=True)
class RequestAnnounced:
    """A request of about so many tokens will come, or turn out to be wrong: it arrived at `arrived_s`."""

    request: str
    key: ModelKey
    prompt_tokens: int
    arrived_s: float


@dataclass(frozen=True)
class AnnouncementOver:
    """What was announced has come by its own name, or was wrong."""

    request: str


@dataclass(frozen=True)
class RequestArrived:
    """A request wants an answer of up to `max_tokens` tokens, or with none its prompt's vector; it arrived at `arrived_s`,
    and nobody waits for it after `deadline_s`. With `more` it is one more choice of one that was admitted, and no bound
    refuses it."""

    request: str
    key: ModelKey
    prompt_tokens: int
    max_tokens: int
    arrived_s: float
    deadline_s: float = float("inf")
    more: bool = False


@dataclass(frozen=True)
class RequestProgressed:
    """So many more tokens of it have come, from `group`; or, with none, its vector."""

    request: str
    group: str
    tokens: int


@dataclass(frozen=True)
class RequestEnded:
    """It has its last token."""

    request: str


@dataclass(frozen=True)
class RequestLeft:
    """Nobody wants its tokens any more."""

    request: str


@dataclass(frozen=True)
class RequestRefused:
    """The group will not run it, whoever else may."""

    request: str
    group: str
    reason: str


@dataclass(frozen=True)
class RequestBroke:
    """Its tokens from `group` ended before its last one."""

    request: str
    group: str
    cause: str


# ---- replicas


@dataclass(frozen=True)
class GroupFormed:
    """All stages of the group are joined: it takes requests."""

    group: str


@dataclass(frozen=True)
class GroupFailed:
    """The group could not be formed, and nothing is left of it. `refused` if a node had other things to say of its memory,
    so that deciding again may help; `unheard` is a node that did not answer, if that was it."""

    group: str
    reason: str
    refused: bool
    unheard: str = ""


@dataclass(frozen=True)
class GroupLost:
    """The group can serve no more."""

    group: str
    cause: str


@dataclass(frozen=True)
class GroupStopped:
    """Nothing is left of the group."""

    group: str


@dataclass(frozen=True)
class GroupFound:
    """The group runs without anybody who asks of it: another front end's, which is gone."""

    group: str
    key: ModelKey
    placement: Placement


@dataclass(frozen=True)
class StartMeasured:
    """What a start that gave its first token was like, in seconds: `formed_s` from the first order at a node to the group
    being formed, `fetched_s` from the arrival to the last byte before the first token, `ttft_s` and `text_s` as they were
    to be recorded. Not `sound` if clocks disagree on it."""

    group: str
    decision: Decision
    ttft_s: float
    text_s: float
    formed_s: float
    fetched_s: float
    sound: bool


@dataclass(frozen=True)
class Recalled:
    """What starts of before teach, oldest first."""

    lessons: tuple[Lesson, ...]
    hops_s: tuple[float, ...] = ()


# ---- nodes


@dataclass(frozen=True)
class NodeReported:
    """The node as it is now. Since its last report it has `gained` units (tiers by digest) and lost those of `lost`."""

    node: Node
    gained: Mapping[str, str]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodesHeard:
    """All nodes that have reported, and are not gone, are there as they said last, but for those that are `silent`."""

    silent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class NodeLeft:
    """The node is gone, and all that ran there."""

    node: str


@dataclass(frozen=True)
class SchedulerLost:
    """No node can be given orders until SchedulerJoined. What runs goes on."""


@dataclass(frozen=True)
class SchedulerJoined:
    """Nodes can be given orders."""


@dataclass(frozen=True)
class NodeDrained:
    """An operator's wish: nothing new goes there, and what runs there goes on elsewhere, or ends. With a `wish` MoveAt or
    Refuse answers."""

    node: str
    wish: str = ""


@dataclass(frozen=True)
class NodeUndrained:
    """It is a node like others again."""

    node: str


# ---- moves


@dataclass(frozen=True)
class ConsolidationWanted:
    """An operator's wish: the model's pipeline becomes one whole replica, on `node` if that is named. MoveAt or Refuse
    answers."""

    wish: str
    model: str
    node: str = ""


@dataclass(frozen=True)
class MigrationWanted:
    """An operator's wish: the model's replica goes on at `node`, the one called `group` if that is named; or only `request`
    does. MoveAt or Refuse answers."""

    wish: str
    node: str
    model: str = ""
    group: str = ""
    request: str = ""


@dataclass(frozen=True)
class MoveGoOn:
    """Whoever carries the move out is ready for what comes after ORDERED or READY. At another step nothing happens."""

    move: str


@dataclass(frozen=True)
class MoveGivenUp:
    """Nobody wants the move any more: what makes way goes on as it was. Once it is switching it is ended nevertheless."""

    move: str
    reason: str


@dataclass(frozen=True)
class RequestShifted:
    """The request had its last token from `group`, and goes on at `to`."""

    request: str
    group: str
    to: str


@dataclass(frozen=True)
class RequestStayed:
    """The request goes on at `group` as if nothing had been, for it cannot at `to`."""

    request: str
    group: str
    to: str
    reason: str


@dataclass(frozen=True)
class PrewarmPlanned:
    """What is to be where before it is asked for, until another plan comes, or this one is over and none has come."""

    plan: Plan


@dataclass(frozen=True)
class Ticked:
    """The time that the last WakeAt named has come."""


Event = (
    ModelKnown | RequestAnnounced | AnnouncementOver | RequestArrived | RequestProgressed | RequestEnded | RequestLeft
    | RequestRefused | RequestBroke | GroupFormed | GroupFailed | GroupLost | GroupStopped | GroupFound | StartMeasured
    | Recalled | NodeReported | NodesHeard | NodeLeft | SchedulerLost | SchedulerJoined | NodeDrained | NodeUndrained
    | ConsolidationWanted | MigrationWanted | MoveGoOn | MoveGivenUp | RequestShifted | RequestStayed
    | PrewarmPlanned | Ticked
)  # fmt: skip
