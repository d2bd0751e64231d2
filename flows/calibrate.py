"""The calibrate flow: how fast every node and the store are, measured now."""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from cluster.calibration import Calibration
from cluster.calibration import calibrate as calibrate_cluster
from flows.artifacts import leave_table
from flows.context import FlowContext, read_context


@task(retries=1, retry_delay_seconds=[5], timeout_seconds=1800, cache_policy=NO_CACHE)
async def measure_cluster(context: FlowContext) -> Calibration:
    """Every node alone, then all together on the store. ClusterError if there is no node."""
    async with context.cluster() as client:
        return await calibrate_cluster(client)


@flow(name="calibrate")
async def calibrate() -> Calibration:
    """Measure the rates that decisions rest on, and have every node report them."""
    found = await measure_cluster(read_context())
    text = "\n\n".join((found.store, "Speeds in bytes/s, durations in seconds.", *found.failures))
    await leave_table("calibrate", "rates", found.rows(), text)
    return found
