"""The consolidate flow: a model's pipeline becomes whole replicas, and its clients do not notice."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.moving.moves import Wish
from flows.moving.steps import carry, run_name
from schedules.moving.plan import Kind


@flow(name=Kind.CONSOLIDATE.value, flow_run_name=run_name)
async def consolidate(model: str, node: str = "", move: str = "") -> State[Any] | None:
    """Have the pipeline of `model` go on as one replica, on `node` if it is named; or carry out the ordered `move`."""
    return await carry(Wish(Kind.CONSOLIDATE, model=model, node=node), move)
