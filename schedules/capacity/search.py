"""Which clusters to try, one after the other or several at once, until the cheapest that attains the goal is known."""

from dataclasses import dataclass
from typing import Protocol

from schedules.capacity.clusters import Cluster
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial


@dataclass(frozen=True)
class Job:
    """A cluster to be tried, with what is other than asked for: `demand` times as many requests, a node lost in the middle
    (`lose`), nothing kept warm beforehand (`cold`). Of the same `name` there is only one in a search."""

    name: str
    cluster: Cluster
    demand: float = 1.0
    lose: bool = False
    cold: bool = False


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
