"""A move as the front end tells of it, and the wish for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.errors import Unintelligible
from schedules.moving.plan import Kind, Step

_STEPS = tuple(Step)


@dataclass(frozen=True)
class Wish:
    """What an operator asks for; what is empty is left to the front end."""

    kind: Kind
    model: str = ""
    node: str = ""
    group: str = ""
    request: str = ""


@dataclass(frozen=True)
class Replica:
    """A group of `degree` stages at `nodes`, in the order of its stages."""

    group: str
    degree: int
    nodes: Sequence[str]


@dataclass(frozen=True)
class Handover:
    """The replica `group` of `model`, which makes way for its heirs."""

    group: str
    model: str
    degree: int
    nodes: Sequence[str]
    heirs: Sequence[Replica] = ()


@dataclass(frozen=True)
class Requests:
    """How many requests went over, how many stayed where they were, and what became of their KV cache."""

    shifted: int = 0
    stayed: int = 0
    copied: int = 0
    recomputed: int = 0
    copied_bytes: int = 0


@dataclass(frozen=True)
class Move:
    """Where a move stands. `why` says why it was given up. Times in unix seconds; a pause for each request that went over."""

    move: str
    kind: Kind
    step: Step
    reason: str
    ordered_at: float
    why: str | None = ""
    node: str = ""
    request: str = ""
    wish: str = ""
    carrier: str = ""
    predicted_s: Mapping[str, float] = field(default_factory=dict, hash=False)
    handovers: Sequence[Handover] = ()
    requests: Requests = Requests()
    pauses_s: Sequence[float] = ()
    preparing_at: float | None = None
    ready_at: float | None = None
    switching_at: float | None = None
    done_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether it came to an end, a good one or not."""
        return self.step in (Step.DONE, Step.GIVEN_UP)

    @property
    def models(self) -> tuple[str, ...]:
        """Whose replicas make way, each once."""
        return tuple(dict.fromkeys(handover.model for handover in self.handovers))

    @property
    def goes_to(self) -> tuple[str, ...]:
        """The nodes of all heirs, each once."""
        return tuple(
            dict.fromkeys(node for handover in self.handovers for heir in handover.heirs for node in heir.nodes)
        )

    def reached(self, step: Step) -> bool:
        """Whether it stands at `step` or further, or came to an end."""
        return _STEPS.index(self.step) >= _STEPS.index(step)


_MOVE: TypeAdapter[Move] = TypeAdapter(Move)


def read_move(told: Any) -> Move:
    """The move in the front end's JSON, which may say more than is known here. Unintelligible if it is none."""
    try:
        return _MOVE.validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Unintelligible(f"the front end tells of a move that cannot be read: {where}: {first['msg']}") from error
