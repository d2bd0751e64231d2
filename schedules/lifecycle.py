"""A replica from wish to end, as one table. `draw` gives the table as a diagram for the docs.

The brain lets things happen to replicas by it, and holds no other rule of which may follow which.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Of a replica. WANTED has no group yet: it waits for room, or for links."""

    WANTED = "wanted"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    GONE = "gone"


class Turn(StrEnum):
    """What may happen to a replica."""

    PLACED = "placed"
    GIVEN_UP = "given up"
    FORMED = "formed"
    REFUSED = "refused"
    FAILED = "failed"
    IDLE = "idle"
    DRAIN = "drain"
    KEEP = "keep"
    LOST = "lost"
    STOPPED = "stopped"


class IllegalTurn(ValueError):
    """It cannot happen to a replica in that state; nothing has changed."""


TABLE: Mapping[tuple[State, Turn], State] = {
    (State.WANTED, Turn.PLACED): State.STARTING,
    (State.WANTED, Turn.GIVEN_UP): State.GONE,
    (State.STARTING, Turn.FORMED): State.SERVING,
    (State.STARTING, Turn.REFUSED): State.WANTED,
    (State.STARTING, Turn.FAILED): State.GONE,
    (State.STARTING, Turn.LOST): State.STOPPING,
    (State.STARTING, Turn.GIVEN_UP): State.STOPPING,
    (State.SERVING, Turn.IDLE): State.STOPPING,
    (State.SERVING, Turn.DRAIN): State.DRAINING,
    (State.SERVING, Turn.LOST): State.STOPPING,
    (State.DRAINING, Turn.KEEP): State.SERVING,
    (State.DRAINING, Turn.IDLE): State.STOPPING,
    (State.DRAINING, Turn.LOST): State.STOPPING,
    (State.STOPPING, Turn.STOPPED): State.GONE,
}


def after(state: State, turn: Turn) -> State:
    """The state that `turn` leads to from `state`; IllegalTurn if it cannot happen there."""
    try:
        return TABLE[state, turn]
    except KeyError:
        raise IllegalTurn(f"a replica that is {state} cannot be {turn}") from None


def draw() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> wanted", "    gone --> [*]"]
    lines += [f"    {state} --> {to}: {turn}" for (state, turn), to in TABLE.items()]
    return "\n".join(lines)
