"""A sweep: the jobs of a search are played by Dask, as many at once as there are threads for, until the plan is known.

By default in processes of its own on this machine, which nobody else reaches and which give way to whatever else runs there.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dask
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, get_worker
from distributed.client import FutureCancelledError

from cluster.wire.encryption import Tls, security
from flows.errors import SweepFailed, Unclear
from flows.planning.kept import Kept
from schedules.capacity.plan import Plan
from schedules.capacity.question import PlanQuestion
from schedules.capacity.search import Job, Searches
from schedules.capacity.trial import Trial

if TYPE_CHECKING:
    from distributed import Future

JOB_WITHIN_S = 4 * 3600.0
CONNECTS_WITHIN_S = 10.0
WORKERS_WITHIN_S = 60.0
STOPS_WITHIN_S = 15.0
DEATHS = 2
"""So many processes may die of one job before it is given up."""
_KILLED_AFTER_S = 0.2
_NICE = 10
_TOPIC = "firsttoken-plan"

Told = Callable[[int], object]
Play = Callable[[PlanQuestion, Job, Told], Trial]
"""A job of a question played; told now and then how many requests are over."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crew:
    """Who plays: `workers` processes of this machine's (0: as many as cores), or, if it is given, all that the scheduler at
    `address` has. Nodes that serve are none of them: their threads are their stages'."""

    address: str = ""
    workers: int = 0
    tls: Tls | None = None


@dataclass(frozen=True)
class Progress:
    """Jobs that are over, of them those that were `kept`, and about how many there will be; requests that are over in those
    under way, by the job's name, of so many each."""

    done: int
    about: int
    kept: int
    under_way: dict[str, int]
    requests: int

    @property
    def share(self) -> float:
        """Of the work, from 0 to 1."""
        parts = sum(min(1.0, over / max(1, self.requests)) for over in self.under_way.values())
        return min(1.0, (self.done + parts) / max(1, self.about))

    @property
    def words(self) -> str:
        """For a person."""
        before = f", {self.kept} of them before" if self.kept else ""
        now = "; ".join(f"{name}: {over:,} of {self.requests:,} requests" for name, over in self.under_way.items())
        return f"{self.done} of about {self.about} clusters played{before}{f'; now {now}' if now else ''}"


Report = Callable[[Progress], object]


def crew_of(address: str, workers: int, serving: str, tls: Tls | None) -> Crew:
    """Of a Dask scheduler's address as typed, "" for none. Unclear if it is that of the nodes that serve, `serving`."""
    if not address:
        return Crew(workers=workers)
    where = address if "://" in address else f"tcp://{address}"
    if where.partition("://")[2] == serving.partition("://")[2]:
        raise Unclear(
            f"at {where} are the nodes that serve, and planning would take their cores: name another, or none"
        )
    return Crew(where, workers, tls if where.startswith("tls://") else None)


async def sweep(searches: Searches, question: PlanQuestion, kept: Kept, crew: Crew, report: Report, play: Play) -> Plan:
    """The plan. What is `kept` is not played again, and what is played is kept at once. SweepFailed says what went wrong;
    whoever is cancelled leaves nothing behind."""
    going = _Going(searches, question, kept, report)
    jobs = going.ask(crew.workers or cores())
    if jobs or not searches.done:
        async with _client(crew) as client, _dealt(client, question, play, alone=not crew.address) as name:
            await _play_all(going, client, name, jobs)
    return searches.plan()


class _Going:
    """A search with what is known of it already: it is told that before anybody is sent to play."""

    def __init__(self, searches: Searches, question: PlanQuestion, kept: Kept, report: Report) -> None:
        self.searches, self._kept, self._report = searches, kept, report
        self._requests, self._from_kept = len(question.trace), 0
        self._under_way: dict[str, int] = {}

    def ask(self, at_most: int) -> list[Job]:
        """Jobs that must be played, up to so many."""
        wanted: list[Job] = []
        while len(wanted) < at_most and (asked := self.searches.ask(at_most - len(wanted))):
            for job in asked:
                if (trial := self._kept.trial(job)) is None:
                    wanted.append(job)
                    self._under_way[job.name] = 0
                else:
                    self._from_kept += 1
                    self.searches.tell(job, trial)
        self._tell()
        return wanted

    def over(self, job: Job, trial: Trial) -> None:
        """It was played."""
        self._kept.add(job, trial)
        self._under_way.pop(job.name, None)
        self.searches.tell(job, trial)
        self._tell()

    def hear(self, told: Any) -> None:
        """So many requests of a job are over."""
        job, over = told
        if job in self._under_way:
            self._under_way[job] = over
            self._tell()

    def _tell(self) -> None:
        done, about = self.searches.progress
        self._report(Progress(done, about, self._from_kept, dict(self._under_way), self._requests))


async def _play_all(going: _Going, client: Client, name: str, jobs: list[Job]) -> None:
    threads = sum((await _soon(client.nthreads(), "list its workers")).values())
    client.subscribe_topic(f"{_TOPIC}-{name}", lambda event: going.hear(event[1]))
    running: dict[asyncio.Task[Trial], Job] = {}
    numbers = itertools.count()
    try:
        while True:
            for job in jobs:
                key = f"{name}-{next(numbers)}-{job.name}"
                future = client.submit(_play, name, job, key=key, pure=False)
                running[asyncio.create_task(_played(future, job))] = job
            if going.searches.done:
                return
            if not running:
                raise SweepFailed("the search wants nothing, and has no plan")
            over, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(over, key=lambda task: task.exception() is not None):  # one that failed ends it
                going.over(running.pop(task), task.result())
            jobs = going.ask(threads - len(running))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _played(future: "Future", job: Job) -> Trial:
    try:
        async with asyncio.timeout(JOB_WITHIN_S):
            trial: Trial = await future
            return trial
    except TimeoutError as error:
        raise SweepFailed(f"{job.name} was not played within {JOB_WITHIN_S / 3600:.0f} hours") from error
    except KilledWorker as error:
        raise SweepFailed(
            f"{job.name} was given up: {DEATHS + 1} processes died of it, most likely for want of memory, of which fewer at "
            "once need less"
        ) from error
    except FutureCancelledError as error:
        raise SweepFailed(f"Dask's scheduler was lost while {job.name} was played: {error.reason}") from error
    finally:
        future.release()


def _play(name: str, job: Job) -> Trial:
    """In a worker's thread."""
    worker = get_worker()
    dealt = worker.plugins[name]

    def tell(over: int) -> None:
        worker.log_event(f"{_TOPIC}-{name}", (job.name, over))

    trial: Trial = dealt.play(dealt.question, job, tell)
    return trial


class _Dealt(WorkerPlugin):
    """The question, once in each process, whenever that comes."""

    def __init__(self, name: str, question: PlanQuestion, play: Play, *, alone: bool) -> None:
        self.name, self.question, self.play, self._alone = name, question, play, alone

    def setup(self, worker: object) -> None:
        if self._alone:
            os.nice(_NICE)


@contextlib.asynccontextmanager
async def _dealt(client: Client, question: PlanQuestion, play: Play, *, alone: bool) -> AsyncIterator[str]:
    """Every process has the question, under the name."""
    name = f"plan-{uuid4().hex[:12]}"
    await _soon(client.register_plugin(_Dealt(name, question, play, alone=alone)), "take the question")
    try:
        yield name
    finally:
        if not alone:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(STOPS_WITHIN_S):
                    await client.unregister_worker_plugin(name)


@contextlib.asynccontextmanager
async def _client(crew: Crew) -> AsyncIterator[Client]:
    """Connected to whoever plays; all that was started for it ends."""
    if crew.address:
        async with _connected(crew.address, security(crew.tls)) as client:
            try:
                await client.wait_for_workers(1, timeout=WORKERS_WITHIN_S)
            except TimeoutError as error:
                raise SweepFailed(f"the Dask scheduler at {crew.address} has no workers") from error
            yield client
        return
    with _own_settings():
        async with LocalCluster(
            n_workers=crew.workers or cores(),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,
            dashboard_address=None,
            worker_dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
            asynchronous=True,
        ) as own:
            try:
                async with _connected(own.scheduler_address, own.security) as client:
                    yield client
            finally:  # who plays hears nothing before the job is over; whom this does not end the cluster's end does
                ends = (nanny.kill(timeout=_KILLED_AFTER_S) for nanny in own.workers.values())
                await asyncio.gather(*ends, return_exceptions=True)


@contextlib.asynccontextmanager
async def _connected(address: str, secured: Any) -> AsyncIterator[Client]:
    try:
        client = await Client(
            address, asynchronous=True, timeout=CONNECTS_WITHIN_S, security=secured, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise SweepFailed(f"no Dask scheduler answers at {address}: {error}") from error
    try:
        yield client
    finally:
        await client.close(timeout=STOPS_WITHIN_S)


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Dask's, for processes that nobody but their sweep reaches: nothing of them is shown, and nothing samples them."""
    chosen = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(chosen):
        yield


async def _soon(awaited: Any, what: str) -> Any:
    try:
        async with asyncio.timeout(WORKERS_WITHIN_S):
            return await awaited
    except (TimeoutError, OSError) as error:
        raise SweepFailed(f"Dask did not {what}: {error or 'it says nothing'}") from error


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
