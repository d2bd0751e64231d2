"""Which clusters to try, one after the other or several at once, until the cheapest that attains the goal is known."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from schedules.capacity.clusters import Cluster
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial


class Resource(StrEnum):
    """What may keep a cluster from serving better."""

    DEVICE = "accelerator memory"
    COMPUTE = "computing"
    CARDS = "network cards"
    STORE = "the store"
    DRAM = "dram"
    SSD = "ssds"
    STARTUP = "starting stages"


@dataclass(frozen=True)
class Job:
    """A cluster to be tried, with what is other than asked for: `demand` times as many requests, the machine that is used
    most lost in the middle (`lose`), nodes that keep nothing that nobody uses (`cold`), `twice` as much of something as
    there is, or twice as fast. Of the same `name` there is only one in a search."""

    name: str
    cluster: Cluster
    demand: float = 1.0
    lose: bool = False
    cold: bool = False
    twice: Resource | None = None


class Searches(Protocol):
    """Whoever asks for jobs plays them (`schedules.capacity.playing.try_out`), at once if there are several, and tells."""

    def ask(self, at_most: int) -> list[Job]:
        """Up to so many jobs that are worth doing now, none twice; none if all that is needed is under way or known."""
        ...

    def tell(self, job: Job, trial: Trial) -> None:
        """What became of it."""
        ...

    @property
    def done(self) -> bool:
        """Whether the plan is known."""
        ...

    @property
    def progress(self) -> tuple[int, int]:
        """Jobs that are done, and about how many there will be in all."""
        ...

    def plan(self) -> Plan:
        """The answer. ValueError before it is done."""
        ...
