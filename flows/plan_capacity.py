"""The plan_capacity flow: the cheapest cluster that serves a trace as it should be served, with what else would be."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.artifacts import bar, leave_page
from flows.capacity.summary import summary
from flows.context import FlowContext, read_context
from flows.planning.answering import Means, answered, known_of
from flows.planning.asking import Known, Wishes
from flows.planning.published import StoreModels
from flows.planning.sweeping import Crew, crew_of
from flows.planning.written import Written, check_prefix, write
from schedules.capacity.plan import Plan

PLANNED_WITHIN_S = 24 * 3600.0
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

_Text = Annotated[str, Field(max_length=10_000)]


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=600, cache_policy=NO_CACHE)
async def ask_front_end(context: FlowContext, wishes: Wishes) -> Known:
    """The nodes that run and what was asked of late, as far as the wishes are about them. FrontEndAway if nobody says."""
    return await known_of(wishes, context.front_end(), time.time())


@task(timeout_seconds=PLANNED_WITHIN_S, cache_policy=NO_CACHE)
async def play_clusters(context: FlowContext, wishes: Wishes, known: Known, crew: Crew, *, resume: bool) -> Plan:
    """The plan. What an earlier run of the same question has played is not played again."""
    means = Means(crew, Path(context.plans_dir), resume)
    async with bar("plan_capacity", "progress") as show:
        return await answered(
            wishes, StoreModels(context.store()), known, means, lambda told: show(told.share, told.words)
        )


@task(cache_policy=NO_CACHE)
async def write_plan(plan: Plan, prefix: Path) -> Written:
    """The plan's files."""
    return await asyncio.to_thread(write, plan, prefix, datetime.now(UTC))


@flow(name="plan_capacity")
async def plan_capacity(
    node_types: _Text,
    keep_alive: _Text,
    degree: Annotated[int, Field(ge=1, le=256)],
    kv_tokens: Annotated[int, Field(ge=16)],
    trace: _Text = "",
    slo_ttft: _Text = "",
    slo_tpot: _Text = "",
    attainment: Annotated[float, Field(gt=0, le=1)] = 0.99,
    models: _Text = "",
    most_machines: Annotated[int, Field(ge=1, le=100_000)] = 64,
    rate: _Text = "",
    duration: _Text = "",
    store: _Text = "",
    dram: _Text = "1,0.5,0.25",
    ssd: _Text = "1,0.5,0.25",
    most_replicas: Annotated[int, Field(ge=1, le=1000)] = 1000,
    currency: Annotated[str, Field(max_length=10)] = "$",
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    name: Annotated[str, Field(pattern=_NAME)] = "plan",
    resume: bool = True,
    jobs: Annotated[int, Field(ge=0, le=1024)] = 0,
    dask: _Text = "",
    world: _Text = "",
) -> None:
    """Find the cheapest cluster that serves a trace within its service levels; say what binds, and what else would be.

    Args:
        node_types: Machines that may be had and what an hour of each costs, as h100=4.10,a10=1.20. cluster=1.50 are the
            machines that run now. A file with your own is /path/types.toml.
        keep_alive: How long a replica stays up after its last request.
        degree: Over so many nodes a cold model is spread at most.
        kv_tokens: Tokens of KV cache that a replica has.
        trace: File of a trace, on the flow service's machine, or history for what was asked in the last week, or in the
            duration. Empty: one is made up of rate, duration and models.
        slo_ttft: Time to the first token, as 2s, or by model as chat*=2s,5s. Empty: as the trace has it.
        slo_tpot: Time of every other token, as 50ms. Empty: as the trace has it.
        attainment: Share of the requests that are to be served so.
        models: Published models, or sizes as 8b,70b, that stand for those of the trace in turn; by model chat*=8b,70b.
            Empty: what is published.
        most_machines: So many machines in all may be had.
        rate: Requests a second in the mean, as 2.5. Empty: as the trace has them.
        duration: Only so much of the trace, as 2h. Empty: all of it.
        store: What the object store gives to all machines together in a second, as 25gbit. Empty: as it was measured.
        dram: Shares of each machine's dram to try.
        ssd: Shares of each machine's ssd to try.
        most_replicas: Most replicas of a model.
        currency: What prices are in.
        seed: Of all chance; the same gives the same plan.
        name: Of the files that are written.
        resume: Use what an earlier run of the same question has played.
        jobs: So many clusters are played at once. 0: as many as there are cores.
        world: File that firsttoken fit has written: cluster are then its machines, as they were seen to be.
        dask: Address of a Dask scheduler to play on, not that of the nodes. Empty: processes of the flow service's machine.
    """
    context = read_context()
    wishes = Wishes(
        trace=trace, node_types=node_types, keep_alive=keep_alive, degree=degree, kv_tokens=kv_tokens, models=models,
        slo_ttft=slo_ttft, slo_tpot=slo_tpot, attainment=attainment, most_machines=most_machines, rate=rate,
        duration=duration, store=store, dram=dram, ssd=ssd, currency=currency, most_replicas=most_replicas,
        seed=seed, world=world,
    )  # fmt: skip
    prefix = Path(context.plans_dir) / name
    prefix.parent.mkdir(parents=True, exist_ok=True)
    check_prefix(prefix)
    crew = crew_of(dask, jobs, context.scheduler_address, context.tls)
    known = await ask_front_end(context, wishes)
    plan = await play_clusters(context, wishes, known, crew, resume=resume)
    files = await write_plan(plan, prefix)
    await leave_page("plan_capacity", name, f"{summary(plan)}\n\n{_files(files)}", plan.sentence)


def _files(files: Written) -> str:
    paths = (files.report, files.document, *files.settings.values())
    return "\n".join(["Written on the flow service's machine:", "", *(f"- `{path}`" for path in paths)])
