"""What a world is like beyond what its nodes say of themselves, what may befall it, and what it tells of a start."""

from dataclasses import dataclass
from enum import StrEnum

from schedules.placing.decision import IN_DRAM


@dataclass(frozen=True)
class Habits:
    """Of the clusters that are played: what is no node's measured rate. Whoever carries moves out is ready for the next step
    after `carry_after_s`; None if nobody ever is.
    `receive_s` of each TTFT pass on the way to the brain and back. A step takes `step_s` beside what its weights take, of
    however many stages it is: an engine's own time. Nodes of one machine compute so many steps at once as it
    has `cores`, and more of them in turn; None is as many as are wanted.

    So many `tokens_at_once` land together, whoever comes meanwhile, unless the world is terse.
    """

    report_every_s: float = 1.0
    report_after_s: float = 0.01
    answer_after_s: float = 0.002
    dissolve_s: float = 0.05
    given_up_after_s: float = 5.0
    found_after_s: float = 2.5
    lease_s: float = 30.0
    hop_s: float = 0.002
    drain_grace_s: float = 60.0
    carry_after_s: float | None = 0.05
    tokens_at_once: int = 1
    receive_s: float = 0.0
    step_s: float = 0.0
    cores: float | None = None


class Misfortune(StrEnum):
    """What may befall a cluster, and how it ends."""

    NODE_LOST = "node lost"
    NODE_SILENT = "node silent"
    NODE_BACK = "node back"
    NODE_DRAINING = "node draining"
    GROUP_LOST = "group lost"
    GROUP_ABANDONED = "group abandoned"
    START_REFUSED = "start refused"
    SCHEDULER_LOST = "scheduler lost"
    SCHEDULER_BACK = "scheduler back"


@dataclass(frozen=True)
class Times:
    """Of a group's start, in seconds of the world's time; None is not yet, or never: all was there. `whence` is where the
    slowest came from of what its first token waited for: NETWORK, ON_SSD or IN_DRAM (schedules.placing.decision);
    `found` tells a "peer" from the "remote" store."""

    ordered_s: float
    formed_s: float | None
    fetched_s: float | None
    whence: str = IN_DRAM
    found: str = "dram"
