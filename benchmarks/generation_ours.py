"""Our engine as the benchmarks use it: real nodes, groups formed on them, requests straight to a group, no HTTP."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from benchmarks.generation_model import MeasuredModel
from benchmarks.generation_work import Outcome, Request, check
from benchmarks.running import run_platform
from cluster.client import ClusterClient
from cluster.group import Group
from cluster.model_facts import facts_of
from cluster.wire.requests import Sampling, Submit
from schedules.facts import Placement
from schedules.placing.policies.fixed import place
from storage_tiers.checkpoint import Checkpoint

KV_TOKENS = 16384
"""As a front end asks for by default; the most that 32 requests need here is a third of it."""
TIMEOUT_S = 120.0
_GREEDY = Sampling(temperature=0.0)


@contextlib.asynccontextmanager
async def run_nodes(home: Path, model: MeasuredModel, nodes: int) -> AsyncIterator[ClusterClient]:
    """Nodes that have all units of the model in dram and stage processes waiting, and a client of them."""
    with run_platform(home, model.store_url, nodes, ()) as platform:
        async with ClusterClient(platform.scheduler_address) as client:
            view = await client.nodes(nodes, TIMEOUT_S)
            units = [unit.name for unit in model.checkpoint.units]
            for node in view.nodes:
                await client.bring(node.name, model.checkpoint, units, "dram", TIMEOUT_S)
            await settle(client, nodes)
            yield client


async def settle(client: ClusterClient, nodes: int) -> None:
    """Wait until no group is up and every node has a stage process waiting. TimeoutError if that takes for ever."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            view = client.view().nodes
            if len(view) == nodes and all(n.idle_stage_processes and not n.busy_stage_processes for n in view):
                return
            await asyncio.sleep(0.05)


def placed(client: ClusterClient, checkpoint: Checkpoint, degree: int) -> Placement:
    """Where a group of exactly `degree` stages goes."""
    placement = place(facts_of(checkpoint), client.view(), degree, KV_TOKENS)
    if not isinstance(placement, Placement) or placement.degree != degree:
        raise RuntimeError(f"no group of degree {degree} can be placed: {placement}")
    return placement


async def generate(group: Group, requests: Sequence[Request]) -> list[Outcome]:
    """Send every request when it arrives and hear all to their end. TimeoutError if that takes for ever."""
    started_s = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S):
        outcomes = await asyncio.gather(*(_one(group, request, started_s) for request in requests))
    check(requests, outcomes)
    return outcomes


async def _one(group: Group, request: Request, started_s: float) -> Outcome:
    await asyncio.sleep(max(0.0, started_s + request.arrival_s - time.perf_counter()))
    submit = Submit(uuid.uuid4().hex, request.prompt, len(request.prompt), request.new_tokens, (), _GREEDY)
    tokens: list[int] = []
    times_s: list[float] = []
    async for event in group.generate(submit):
        tokens += event.tokens
        times_s += [time.perf_counter() - started_s] * len(event.tokens)
    return Outcome(tuple(tokens), tuple(times_s))
