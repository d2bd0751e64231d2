"""The bring flow: models up the tiers of nodes because somebody, or an automation, says so."""

from collections.abc import Sequence
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from flows.context import read_context
from flows.errors import UnitsNotBrought
from flows.prewarming.bringing import bring_all, find_nodes

Names = Annotated[Sequence[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=10_000)]


@flow(name="bring")
async def bring(
    models: Names, tier: Literal["ssd", "dram"] = "ssd", nodes: Names = (), units: Names | None = None
) -> None:
    """Bring models to nodes, behind every cold start. What is there is not fetched again.

    Args:
        models: Names of published models.
        tier: Where to: ssd or dram.
        nodes: Only these nodes. Empty: all.
        units: Only these units, as embed, layer.0 or head. Empty: all.
    """
    context = read_context()
    async with context.cluster() as client:
        failed = await bring_all(context, client, models, tier, await find_nodes(client, nodes), units)
    if failed:
        raise UnitsNotBrought("; ".join(failed))
