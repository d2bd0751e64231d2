"""Phases of cold starts: measured by one machine's monotonic clock, told in unix seconds, for they come from several.

Whatever is reckoned (deadlines, durations, rates) is in seconds of the monotonic clock, which nobody sets. Unix seconds
are for people and for other machines.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

TAKE_PROCESS, BUILD_SKELETON = "take process", "build skeleton"
"""The first phase of a stage's forming, at its node, and the last, in its process."""
FIRST_STEP = "first step"
"""The phase in which a stage computes for the first time."""
FIRST_ANSWER = "first token"
"""The phase at the first stage from its first request's arrival until that has its first token."""
FETCH = "fetch "
"""How the names of phases begin in which a unit comes to a node's dram; they end with the unit's name."""
FROM = " from "
"""Where such a phase ran: a node and, after this, the source that the unit came from."""
STAGE = "stage "
"""How it begins where a phase of a stage ran; it ends with the stage's place in its group."""
WAIT = "wait for "
"""How the names of phases begin in which a stage's step waits for a unit."""
ASSIGN = "assign "
"""How the names of phases begin in which a stage takes a unit into use."""
COPY = "copy "
"""How the names of phases begin in which a unit is copied to an accelerator."""


@dataclass(frozen=True)
class Phase:
    """A part of a cold start: where it ran, from when to when (unix seconds of that node), and bytes it moved."""

    name: str
    where: str
    start_s: float
    end_s: float
    bytes: int = 0


def unix_s(at_s: float) -> float:
    """What the wall clock, as it stands now, calls the moment `at_s` of the monotonic clock."""
    return at_s + time.time() - time.monotonic()


def timed_phase(name: str, where: str, started_s: float, ended_s: float | None = None, size_bytes: int = 0) -> Phase:
    """A phase between two moments of the monotonic clock, until now by default. Its length is right whenever the wall
    clock is set; where it stands is as right as the wall clock is now."""
    ended_s = time.monotonic() if ended_s is None else ended_s
    start_s = unix_s(started_s)
    return Phase(
        name, where, start_s, start_s + (ended_s - started_s), size_bytes
    )  # never before it began, by rounding


def in_our_clock(phases: Sequence[Phase], their_now_s: float, asked_s: float, answered_s: float) -> tuple[Phase, ...]:
    """What another machine told of its phases, in unix seconds of this one: its clock is seen to be off by what it said it
    was in the middle of a round trip between two moments of our monotonic clock, to half of that. What the round trip itself
    may explain is taken for no difference: phases of one clock keep their places however late an answer comes."""
    off_s = their_now_s - unix_s((asked_s + answered_s) / 2)
    if abs(off_s) <= (answered_s - asked_s) / 2:
        return tuple(phases)
    return tuple(replace(phase, start_s=phase.start_s - off_s, end_s=phase.end_s - off_s) for phase in phases)
