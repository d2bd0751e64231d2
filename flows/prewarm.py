"""The prewarm flow: models up the tiers of nodes before anybody asks for them."""

import asyncio
from collections.abc import Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from cluster.wire.reports import UnitsBrought
from flows.artifacts import Row, leave_table
from flows.context import FlowContext, read_context
from flows.errors import UnitsNotBrought
from storage_tiers.presence import check_present

BRING_TIMEOUT_S = 1800.0
NODES_TIMEOUT_S = 30.0


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=60, cache_policy=NO_CACHE)
async def find_nodes(context: FlowContext) -> list[str]:
    """Names of all nodes in the cluster, waiting for the first. ClusterError if none comes."""
    async with context.cluster() as client:
        await client.nodes(minimum=1, timeout_s=NODES_TIMEOUT_S)
        return sorted(node.name for node in client.view().nodes)


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=BRING_TIMEOUT_S + 60, cache_policy=NO_CACHE)
async def bring_model(
    context: FlowContext, model: str, node: str, tier: str, units: Sequence[str] | None
) -> UnitsBrought:
    """Bring the model's `units` (all if None) to a tier of one node. What the node holds already is not fetched again.

    Corrupt if the model is not what its root claims.
    """
    store = context.store()
    checkpoint = await asyncio.to_thread(store.open, model)
    names = [unit.name for unit in checkpoint.units] if units is None else list(units)
    async with context.cluster() as client:
        view = await client.nodes(minimum=1, timeout_s=NODES_TIMEOUT_S)
        held = {unit.digest for unit in checkpoint.units if view.holding(unit.digest)}
        await asyncio.to_thread(check_present, store, checkpoint, held)
        return await client.bring(node, checkpoint, names, tier, BRING_TIMEOUT_S)


@flow(name="prewarm")
async def prewarm(
    models: Sequence[str], tier: str, nodes: Sequence[str] = (), units: Sequence[str] | None = None
) -> None:
    """Bring `models` to `nodes` (all nodes if empty), into the tier "ssd" or "dram"; only `units` if given."""
    context = read_context()
    if not models:
        await leave_table("prewarm", "plan", [], "No models to prewarm: `prewarm.models` is empty.")
        return
    targets = list(nodes) or await find_nodes(context)
    failed = []
    for model in models:
        outcomes = await asyncio.gather(
            *(bring_model(context, model, node, tier, units) for node in targets), return_exceptions=True
        )
        rows = [_row(model, node, tier, outcome) for node, outcome in zip(targets, outcomes, strict=True)]
        await leave_table("prewarm", model, rows, f"`{model}` brought to `{tier}` on {len(targets)} node(s)")
        failed += [f"{model} on {row['node']}: {row['outcome']}" for row in rows if row["outcome"] != "brought"]
    if failed:
        raise UnitsNotBrought("; ".join(failed))


def _row(model: str, node: str, tier: str, outcome: UnitsBrought | BaseException) -> Row:
    if isinstance(outcome, BaseException):
        if not isinstance(outcome, Exception):
            raise outcome
        return {"model": model, "node": node, "tier": tier, "outcome": f"{type(outcome).__name__}: {outcome}"}
    return {
        "model": model,
        "node": outcome.node,
        "tier": outcome.tier,
        "outcome": "brought",
        "units": outcome.units,
        "fetched_bytes": outcome.fetched_bytes,
        "present_bytes": outcome.present_bytes,
        "seconds": round(outcome.seconds, 3),
    }
