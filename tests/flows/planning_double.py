"""A search that wants so many jobs, and ways to play them: what a sweep needs, in milliseconds."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from flows.planning.kept import Kept
from flows.planning.sweeping import Told
from schedules.capacity.clusters import Cluster, NodeType
from schedules.capacity.plan import Plan
from schedules.capacity.question import Choices, PlanQuestion
from schedules.capacity.search import Job
from schedules.capacity.trial import Trial, Usage
from schedules.objectives import Objectives
from schedules.simulation.scenario import Offered
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from tests.schedules.worlds import MB, world_model, world_node

SLEEPS_S, DIES_AFTER_S = 60.0, 1.0


def question() -> PlanQuestion:
    """A few requests for two models."""
    trace = synthesise(Recipe(numbered(2, ["40:0.5/20:0.5"]), 0.2, 200.0, max_tokens=64), seed=1)
    wanted = Objectives(3.0, None, 0, 4, keep_alive_s=20.0, priority=0, max_degree=1, kv_tokens=1024)
    kind = NodeType("small", 1.0, 400 * MB, 500 * MB, 2000 * MB, world_node("n").rates)
    models = tuple(Offered(world_model(name), wanted) for name in trace.models)
    return PlanQuestion(trace, models, Choices((kind,), 4))


def job(number: int) -> Job:
    """The cluster of so many machines."""
    return Job(f"{number} small", Cluster({"small": number}))


def trial(of: Job, requests: int) -> Trial:
    """What might have become of it."""
    return Trial(
        of.name, of.cluster, 1.0, 0.5, {}, {}, {}, {}, 0.1, 0.0, 1.0, {}, Usage(0, 0, 0, 0, None, None), requests
    )


def opened(folder: Path, digest: str = "q") -> Kept:
    """What was kept in the folder."""
    return Kept.open(folder, digest)


@dataclass
class Counts:
    """A search that wants the clusters of 1 to `wanted` machines, and is done when it was told of all."""

    wanted: int
    asked: int = 0
    told: dict[str, Trial] = field(default_factory=dict)

    def ask(self, at_most: int) -> list[Job]:
        """The next ones."""
        first, self.asked = self.asked, min(self.wanted, self.asked + at_most)
        return [job(number + 1) for number in range(first, self.asked)]

    def tell(self, job: Job, trial: Trial) -> None:
        """Once each."""
        assert job.name not in self.told
        self.told[job.name] = trial

    @property
    def done(self) -> bool:
        """Whether all were played."""
        return len(self.told) == self.wanted

    @property
    def progress(self) -> tuple[int, int]:
        """As it is."""
        return len(self.told), self.wanted

    def plan(self) -> Plan:
        """With all that was tried."""
        tried = tuple(self.told.values())
        return Plan(0.99, "$", "done", "nothing", tried[0], tried[:1], (), tried, {}, {})


def plays(question: PlanQuestion, job: Job, tell: Told) -> Trial:
    """At once."""
    tell(7)
    return trial(job, len(question.trace))


def sleeps(question: PlanQuestion, job: Job, tell: Told) -> Trial:
    """The first at once, the others not soon."""
    if job.cluster.count > 1:
        time.sleep(SLEEPS_S)
    return plays(question, job, tell)


def dies(question: PlanQuestion, job: Job, tell: Told) -> Trial:
    """The second takes its process with it, each time; as when memory is short. By then what others played is known."""
    if job.cluster.count == 2:
        time.sleep(DIES_AFTER_S)
        os._exit(1)
    return plays(question, job, tell)


def fails(question: PlanQuestion, job: Job, tell: Told) -> Trial:
    """With what nobody expected."""
    raise ZeroDivisionError("no cluster is that small")


DIED = "FIRSTTOKEN_TEST_DIED"


def dies_once(question: PlanQuestion, job: Job, tell: Told) -> Trial:
    """The second takes its process with it the first time; the file that the environment names says that it did."""
    if job.cluster.count == 2:
        try:
            os.close(os.open(os.environ[DIED], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return plays(question, job, tell)
        os._exit(1)
    return plays(question, job, tell)
