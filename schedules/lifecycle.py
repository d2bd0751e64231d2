"""A model's replica from cold to cold again, as one table.

The router feeds events in and carries out the actions that come out; it holds no rule of its own about when a replica
starts or ends. `draw` gives the table as a diagram for the docs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    COLD = "cold"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"


class Event(StrEnum):
    ARRIVED = "arrived"
    STARTED = "started"
    FAILED = "failed"
    LOST = "lost"
    IDLE = "idle"
    DRAIN = "drain"
    STOPPED = "stopped"


class Action(StrEnum):
    START = "start"
    HOLD = "hold"
    FORWARD = "forward"
    RELEASE = "release"
    REJECT = "reject"
    STOP = "stop"
    REPLAY = "replay"


class IllegalMove(ValueError):
    """The event cannot happen in the state; nothing has changed."""


@dataclass(frozen=True)
class Replica:
    """State of a model's replica and since when (seconds)."""

    state: State
    since_s: float


TABLE: Mapping[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (State.COLD, Event.ARRIVED): (State.STARTING, (Action.HOLD, Action.START)),
    (State.STARTING, Event.ARRIVED): (State.STARTING, (Action.HOLD,)),
    (State.STARTING, Event.STARTED): (State.SERVING, (Action.RELEASE,)),
    (State.STARTING, Event.FAILED): (State.COLD, (Action.REJECT,)),
    (State.STARTING, Event.LOST): (State.COLD, (Action.REJECT,)),
    (State.SERVING, Event.ARRIVED): (State.SERVING, (Action.FORWARD,)),
    (State.SERVING, Event.IDLE): (State.STOPPING, (Action.STOP,)),
    (State.SERVING, Event.LOST): (State.STOPPING, (Action.REPLAY, Action.STOP)),
    (State.SERVING, Event.DRAIN): (State.DRAINING, ()),
    (State.DRAINING, Event.IDLE): (State.STOPPING, (Action.STOP,)),
    (State.DRAINING, Event.LOST): (State.STOPPING, (Action.REPLAY, Action.STOP)),
    (State.STOPPING, Event.ARRIVED): (State.STOPPING, (Action.HOLD,)),
    (State.STOPPING, Event.LOST): (State.STOPPING, ()),
    (State.STOPPING, Event.STOPPED): (State.COLD, ()),
}


def handle(replica: Replica, event: Event, now_s: float, held: int = 0) -> tuple[Replica, tuple[Action, ...]]:
    """The replica after `event`, and what must be done, in order. IllegalMove if it cannot happen now.

    A replica that becomes cold while requests are `held` for it starts again at once; one that is loading is never idle;
    one that drains ends what it has begun and is given nothing new.
    """
    try:
        state, actions = TABLE[replica.state, event]
    except KeyError:
        raise IllegalMove(f"{event} cannot happen to a replica that is {replica.state}") from None
    if state is State.COLD and held and Action.REJECT not in actions:
        state, actions = State.STARTING, (*actions, Action.START)
    moved = replica if state is replica.state else replace(replica, state=state, since_s=now_s)
    return moved, actions


def draw() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> cold"]
    for (state, event), (to, actions) in TABLE.items():
        lines.append(f"    {state} --> {to}: {event}" + (f" / {', '.join(actions)}" if actions else ""))
    return "\n".join(lines)
