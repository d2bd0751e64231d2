"""The reap flow: what nobody will ask for goes from nodes' dram and ssd."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from cluster.client import ClusterClient
from cluster.errors import ClusterError
from flows.artifacts import Row, leave_page, leave_table
from flows.capacity.words import count, size
from flows.context import FlowContext, read_context
from flows.errors import NotDropped, NothingKnown
from flows.foreseeing.make import Made
from flows.markdown import text
from flows.passing import unseen
from flows.planning.published import StoreModels
from flows.prewarming.reaping import Drop, drops_of
from flows.prewarming.steps import choose, foresee, wish_of
from schedules.facts import Model, View
from storage_tiers.model_store import ModelStore

REPLICAS = (
    "Replicas are not ended by this flow: each goes when its model's keep-alive is over, and makes room before that where "
    "another is worth more by the plan that `prewarm` tells the front end."
)


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=600, cache_policy=NO_CACHE)
async def list_published(context: FlowContext) -> list[Model]:
    """All models of the store. StorageError if it does not answer: what it does not say is not taken for gone."""
    return await asyncio.to_thread(_models, context.store())


@task(retries=1, retry_delay_seconds=[2], timeout_seconds=120, cache_policy=NO_CACHE)
async def drop(client: ClusterClient, node: str, digests: Sequence[str]) -> None:
    """Have a node hold these units no more, but for those in use."""
    await client.drop(node, digests)


@flow(name="reap")
async def reap(
    fuller_than: Annotated[float, Field(ge=0, le=1)] = 0.5,
    horizon: Annotated[str, Field(max_length=20)] = "1d",
    dry_run: bool = False,
) -> None:
    """Drop from nodes what no published model has, and where a node is full what nobody is expected to ask for.

    Args:
        fuller_than: Nodes whose dram and ssd are at most that full, as a share, keep all that is published.
        horizon: So long nobody must be expected to ask for it, as 1d.
        dry_run: Say what would go, and drop nothing.
    """
    context = read_context()
    chosen = await choose(context.foresight, horizon)
    wish = wish_of(context.foresight, chosen, chosen.horizon_s)
    async with context.cluster() as client:
        try:
            made = await foresee(context, client, wish)
        except NothingKnown as error:
            await leave_page("reap", "summary", f"Nothing is dropped: {error}.", "Nothing is dropped")
            return
        published = await list_published(context)
        running = {key.name for key in made.ground.running}
        spared = {*context.foresight.models, *running}
        drops = drops_of(made.ground.view, made.plan, published, spared, fuller_than)
        failed = {} if dry_run else await _drop(client, drops)
        freed_bytes = 0 if dry_run else _used(made.ground.view) - _used(client.view())
    await _show(drops, failed, freed_bytes, made, dry_run=dry_run)
    if failed:
        raise NotDropped("; ".join(f"{node}: {why}" for node, why in failed.items()))


async def _drop(client: ClusterClient, drops: Sequence[Drop]) -> dict[str, str]:
    """By node, why it did not; nodes side by side."""
    by_node: dict[str, list[str]] = {}
    for each in drops:
        by_node.setdefault(each.node, []).extend(each.digests)
    done = await asyncio.gather(
        *(drop(client, node, unseen(digests)) for node, digests in by_node.items()), return_exceptions=True
    )
    failed = {}
    for node, error in zip(by_node, done, strict=True):
        if isinstance(error, ClusterError | TimeoutError):
            get_run_logger().warning("%s drops nothing: %s", node, error)
            failed[node] = str(error)
        elif error is not None:
            raise error
    return failed


async def _show(drops: Sequence[Drop], failed: dict[str, str], freed_bytes: int, made: Made, *, dry_run: bool) -> None:
    nodes = len({each.node for each in drops})
    units = count(sum(len(each.digests) for each in drops), "unit")
    verb = "would go" if dry_run else "went"
    sentence = f"{units} {verb} from {count(nodes, 'node')}"
    freed = "" if dry_run else f": {size(max(0, freed_bytes))} are free that were not"
    rows = [_row(each, failed.get(each.node, "dry run" if dry_run else "dropped")) for each in drops]
    await leave_table("reap", "dropped", rows, sentence + freed)
    lines = [
        f"**{sentence}{freed}.**",
        *(f"- {text(node)} dropped nothing: {text(why)}" for node, why in failed.items()),
    ]
    lines += [
        "",
        REPLICAS,
        "",
        f"Of {count(len(made.ground.models), 'model')} it was known whether they are asked for.",
    ]
    await leave_page("reap", "summary", "\n".join(lines), sentence)


def _row(each: Drop, outcome: str) -> Row:
    return {
        "node": each.node,
        "model": each.model,
        "units": len(each.digests),
        "bytes": each.size_bytes,
        "reason": each.reason,
        "outcome": outcome,
    }


def _models(store: ModelStore) -> list[Model]:
    models = StoreModels(store)
    return [models.model(name) for name in models.names()]


def _used(view: View) -> int:
    """Bytes in the tiers of all nodes, those of one box once."""
    boxes = {node.card: node.dram_used_bytes + node.ssd_used_bytes for node in view.nodes}
    return sum(boxes.values())
