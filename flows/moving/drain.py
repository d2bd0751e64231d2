"""The drain flow: a node is left by all that runs there, and takes nothing new."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.moving.moves import Wish
from flows.moving.steps import carry, run_name
from schedules.moving.plan import Kind


@flow(name=Kind.DRAIN.value, flow_run_name=run_name)
async def drain(node: str, move: str = "") -> State[Any] | None:
    """Have everything at `node` go on elsewhere; or carry out the ordered `move`."""
    return await carry(Wish(Kind.DRAIN, node=node), move)
