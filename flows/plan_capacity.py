"""The plan_capacity flow: the cheapest cluster that serves a trace as it should be served, with what else would be."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.artifacts import bar, leave_page
from flows.capacity.summary import summary
from flows.context import FlowContext, read_context
from flows.planning.answering import Means, answered
from flows.planning.asking import Wishes
from flows.planning.published import StoreModels
from flows.planning.sweeping import Crew, crew_of
from flows.planning.written import Written, check_prefix, write
from schedules.capacity.plan import Plan
from schedules.facts import Node

PLANNED_WITHIN_S = 24 * 3600.0
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

_Text = Annotated[str, Field(max_length=10_000)]


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=60, cache_policy=NO_CACHE)
async def find_measured_nodes(context: FlowContext) -> Sequence[Node]:
    """The nodes of the cluster that runs, with what they have measured. FrontEndAway if nobody says."""
    return await context.front_end().nodes()


@task(timeout_seconds=PLANNED_WITHIN_S, cache_policy=NO_CACHE)
async def play_clusters(
    context: FlowContext, wishes: Wishes, nodes: Sequence[Node], crew: Crew, *, resume: bool
) -> Plan:
    """The plan. What an earlier run of the same question has played is not played again."""
    means = Means(crew, Path(context.plans_dir), resume)
    async with bar("plan_capacity", "progress") as show:
        return await answered(
            wishes, StoreModels(context.store()), nodes, means, lambda told: show(told.share, told.words)
        )


@task(cache_policy=NO_CACHE)
async def write_plan(plan: Plan, prefix: Path) -> Written:
    """The plan's files."""
    return await asyncio.to_thread(write, plan, prefix, datetime.now(UTC))


@flow(name="plan_capacity")
async def plan_capacity(
    node_types: Annotated[
        _Text,
        Field(
            description="Machines that may be had and what an hour of each costs: h100=4.10,a10=1.20; cluster=1.50 for the "
            "nodes that run; or a file with your own, /path/types.toml"
        ),
    ],
    trace: Annotated[
        _Text, Field(description="File of a trace. Empty: one is made up of rate, duration and models")
    ] = "",
    slo_ttft: Annotated[
        _Text, Field(description="Time to the first token: 2s, or by model chat*=2s,5s. Empty: as the trace says")
    ] = "",
    slo_tpot: Annotated[_Text, Field(description="Time of every other token: 50ms. Empty: as the trace says")] = "",
    attainment: Annotated[float, Field(description="Share of the requests to be served so", gt=0, le=1)] = 0.99,
    models: Annotated[
        _Text,
        Field(
            description="Published models or sizes (8b,70b) that stand for those of the trace in turn, or "
            "chat*=8b,code*=70b. Empty: what is published"
        ),
    ] = "",
    most_machines: Annotated[int, Field(description="Most machines in all", ge=1, le=100_000)] = 64,
    rate: Annotated[_Text, Field(description="Requests a second, in the mean. Empty: as the trace has them")] = "",
    duration: Annotated[_Text, Field(description="Only so much of the trace: 2h. Empty: all of it")] = "",
    store: Annotated[
        _Text,
        Field(description="What the object store gives to all together: 25gbit, 2GB. Empty: as measured, or no limit"),
    ] = "",
    dram: Annotated[_Text, Field(description="Shares of each machine's dram to try")] = "1,0.5,0.25",
    ssd: Annotated[_Text, Field(description="Shares of each machine's ssd to try")] = "1,0.5,0.25",
    keep_alive: Annotated[_Text, Field(description="How long a replica stays after its last request")] = "300s",
    degree: Annotated[int, Field(description="Over so many nodes a cold model is spread at most", ge=1, le=256)] = 4,
    kv_tokens: Annotated[int, Field(description="Tokens of KV cache of a replica", ge=16)] = 16384,
    most_replicas: Annotated[int, Field(description="Most replicas of a model", ge=1, le=1000)] = 1000,
    currency: Annotated[str, Field(description="Of the prices", max_length=10)] = "$",
    seed: Annotated[int, Field(description="Of all chance", ge=0, lt=2**32)] = 0,
    name: Annotated[str, Field(description="Of the files that are written", pattern=_NAME)] = "plan",
    resume: Annotated[bool, Field(description="Use what an earlier run of the same question has played")] = True,
    jobs: Annotated[
        int, Field(description="Clusters played at once. 0: as many as there are cores", ge=0, le=1024)
    ] = 0,
    dask: Annotated[
        _Text, Field(description="Address of a Dask scheduler to play on, not that of the nodes. Empty: this machine")
    ] = "",
) -> None:
    """Find the cheapest cluster that serves a trace within its service levels, and say what binds and what else would be."""
    context = read_context()
    wishes = Wishes(
        trace, node_types, models, slo_ttft, slo_tpot, attainment, most_machines, rate, duration, "", store, dram, ssd,
        currency, keep_alive, degree, kv_tokens, most_replicas, seed,
    )  # fmt: skip
    prefix = Path(context.plans_dir) / name
    prefix.parent.mkdir(parents=True, exist_ok=True)
    check_prefix(prefix)
    crew = crew_of(dask, jobs, context.scheduler_address, context.tls)
    nodes = await find_measured_nodes(context) if wishes.of_cluster else ()
    plan = await play_clusters(context, wishes, nodes, crew, resume=resume)
    files = await write_plan(plan, prefix)
    await leave_page("plan_capacity", name, f"{summary(plan)}\n\n{_files(files)}", plan.sentence)


def _files(files: Written) -> str:
    paths = (files.report, files.document, *files.settings.values())
    return "\n".join(["Written on the flow service's machine:", "", *(f"- `{path}`" for path in paths)])
