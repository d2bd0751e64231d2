"""The routes of the plan of prewarming: whoever makes one tells it, and anybody may ask for it."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import RootModel

from schedules.foresight.spoken import plan_as_json, read_plan
from serving.door.bodies import Bodies, json_route
from serving.door.operator_key import for_operators
from serving.errors import BadRequest
from serving.prewarming.plans import Plans


class PlanBody(RootModel[dict[str, Any]]):
    """A plan as schedules.foresight.spoken writes it."""


class PlanRoutes:
    """See the module. With an empty `key` nobody may tell one."""

    def __init__(self, plans: Plans, bodies: Bodies, key: str) -> None:
        self._plans = plans
        self.routes = APIRouter()
        add, post = self.routes.add_api_route, for_operators(json_route(bodies), key)
        add("/admin/plan", self.plan, methods=["GET"], summary="The plan of prewarming", route_class_override=APIRoute)
        add("/admin/plan", self.tell, methods=["POST"], summary="Follow another plan", route_class_override=post)

    async def plan(self) -> Any:
        plan = self._plans.plan
        return None if plan is None else await asyncio.to_thread(plan_as_json, plan)

    async def tell(self, body: PlanBody, _request: Request) -> Response:
        """A large plan is read beside the loop."""
        try:
            plan = await asyncio.to_thread(read_plan, body.root)
        except ValueError as error:
            raise BadRequest(f"this is no plan that can be followed: {error}") from error
        self._plans.take(plan)
        ignored = await self._plans.know_kept(plan)
        names = {each.model for each in ignored}
        kept = [kept for kept in plan.kept if kept.key.name not in names]
        return JSONResponse({
            "until": plan.until_s,
            "kept": [{"model": each.key.name, "replicas": each.replicas} for each in kept],
            "ignored": [{"model": each.model, "reason": each.reason} for each in ignored],
        })  # fmt: skip
