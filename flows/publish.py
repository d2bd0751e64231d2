"""The publish flow: a model from anywhere into the store, then a table of what it became."""

import asyncio
import time

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import Row, leave_table
from flows.context import FlowContext, read_context
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.publishing.publish import publish as publish_model


@task(retries=2, retry_delay_seconds=[5, 30], timeout_seconds=6 * 3600, cache_policy=NO_CACHE)
async def write_checkpoint(context: FlowContext, source: str, name: str, dtype: str | None) -> Checkpoint:
    """Publish `source` as `name`. A retry goes on where the last attempt ended. StorageError says what is wrong."""
    return await asyncio.to_thread(publish_model, source, name, context.store(), dtype=dtype)


@flow(name="publish")
async def publish(source: str, name: str, dtype: str | None = None) -> None:
    """Publish a checkpoint (a folder, file, hub id or fsspec URL) under a name that requests can ask for."""
    context = read_context()
    started_s = time.monotonic()
    checkpoint = await write_checkpoint(context, source, name, dtype)
    row: Row = {
        "model": checkpoint.name,
        "version": checkpoint.version,
        "dtype": checkpoint.dtype,
        "units": len(checkpoint.units),
        "bytes": checkpoint.size_bytes,
        "seconds": round(time.monotonic() - started_s, 3),
    }
    await leave_table("publish", name, [row], f"`{name}` published from `{source}`")
