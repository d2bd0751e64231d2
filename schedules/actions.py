"""What the brain may order: values that whoever owns it carries out, in their order, and decides nothing of its own."""

from dataclasses import dataclass
from enum import StrEnum

from schedules.facts import ModelKey, Placement
from schedules.moving.plan import Plan, Step
from schedules.placing.decision import Decision


class Why(StrEnum):
    """Why a request is rejected, which is all that its status depends on."""

    TOO_LONG = "too long"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    LATE = "late"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Assign:
    """The group has room for the request: it goes, or goes on, there. It is `cold` if it waited for a replica to start."""

    request: str
    group: str
    cold: bool


@dataclass(frozen=True)
class Hold:
    """The request waits; an Assign or a Reject follows in time."""

    request: str


@dataclass(frozen=True)
class Reject:
    """The request is over. `sentence` is for a person; `retry_after_s` says when asking again may help."""

    request: str
    why: Why
    sentence: str
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Replay:
    """The request lost its group after it had so many tokens; an Assign or a Reject follows."""

    request: str
    group: str
    tokens: int
    cause: str


@dataclass(frozen=True)
class Start:
    """Form the group, as its placement says, within `timeout_s`. GroupFormed or GroupFailed answers.

    One that comes `behind` follows another that runs, or comes before anybody asks for it: its units make way for all that
    anybody waits for, and it counts as formed when the last of them is in its stages. If it grows `in_place_of` the group
    that it follows it has what that has reserved on its node, in the same process; no live cluster is asked for that.
    """

    group: str
    key: ModelKey
    placement: Placement
    timeout_s: float
    behind: bool = False
    in_place_of: str = ""


@dataclass(frozen=True)
class Hurry:
    """Somebody waits for a group on these nodes that comes behind others, and is not formed yet: its units are to make way no
    more."""

    group: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Stop:
    """End the group, whatever it does. GroupStopped answers."""

    group: str


@dataclass(frozen=True)
class Adopt:
    """The group that was found is ours now: keep its lease. GroupFormed or GroupLost answers."""

    group: str


@dataclass(frozen=True)
class Decided:
    """It was decided where a replica starts, or that it does not now: for those who count and explain. Nothing is to be
    carried out."""

    group: str
    key: ModelKey
    decision: Decision


@dataclass(frozen=True)
class Failed:
    """A start came to nothing, and is not tried again for those who wait."""

    group: str
    key: ModelKey
    reason: str


@dataclass(frozen=True)
class Record:
    """The group's start gave its first token: ask its nodes what they did, keep it, and tell StartMeasured.

    The request that it was for came at `arrived_s`, the start was wanted at `wanted_s` and decided at `decided_s`. `ttft_s`
    counts from the arrival; `text_s` too, if the request's tokens were known only then.
    """

    group: str
    key: ModelKey
    placement: Placement
    decision: Decision
    arrived_s: float
    wanted_s: float
    decided_s: float
    ttft_s: float
    text_s: float


@dataclass(frozen=True)
class Shift:
    """The request, which runs at `group`, goes on at `to`, whose room it has from now on: RequestShifted answers as soon as
    `group` has given its last token of it, or RequestStayed. With `copy` its KV cache is copied, without it is computed anew
    from its tokens."""

    request: str
    group: str
    to: str
    copy: bool


@dataclass(frozen=True)
class MoveAt:
    """The move stands at this step. At ORDERED and READY whoever carries it out says MoveGoOn, or MoveGivenUp; `reason` says
    why it was given up."""

    plan: Plan
    step: Step
    reason: str = ""


@dataclass(frozen=True)
class Refuse:
    """An operator's wish is not followed, and nothing has changed. `sentence` is for a person."""

    wish: str
    sentence: str


@dataclass(frozen=True)
class WakeAt:
    """Tell Ticked then, and not by any WakeAt of before."""

    at_s: float


Action = (
    Assign | Hold | Reject | Replay | Start | Hurry | Stop | Adopt | Decided | Failed | Record | Shift | MoveAt | Refuse
    | WakeAt
)  # fmt: skip
