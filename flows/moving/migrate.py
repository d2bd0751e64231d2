"""The migrate flow: a replica, or a single request, goes on at another node."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.moving.moves import Wish
from flows.moving.steps import carry, run_name
from schedules.moving.plan import Kind


@flow(name=Kind.MIGRATE.value, flow_run_name=run_name)
async def migrate(node: str, model: str = "", request: str = "", group: str = "", move: str = "") -> State[Any] | None:
    """Have the replica of `model` go on at `node`: the one called `group` if it is named, or `request` alone; or carry out
    the ordered `move`."""
    return await carry(Wish(Kind.MIGRATE, model=model, node=node, group=group, request=request), move)
