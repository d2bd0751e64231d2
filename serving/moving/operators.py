"""The routes that move replicas and drain nodes: for operators and the flow service, who show the operator's key."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from schedules import events
from schedules.moving.plan import Step
from serving.catalog import Catalog
from serving.door.bodies import CLIENT_LEFT, Bodies, json_route
from serving.door.leaving import ClosedStream, unless_left
from serving.door.operator_key import for_operators
from serving.errors import GroupNotFound, MoveNotFound, NodeNotFound, RunningNotFound
from serving.link import ClusterLink
from serving.moving.report import Carrier
from serving.moving.schemas import GiveUpRequest, GoOnRequest, MoveRequest
from serving.router import Router


class Operators:
    """The routes, bound to the parts of one front end. With an empty `key` nobody is an operator."""

    def __init__(self, link: ClusterLink, catalog: Catalog, router: Router, bodies: Bodies, key: str) -> None:
        self._link, self._catalog, self._router, self._moves = link, catalog, router, router.moves
        self.routes = APIRouter()
        get, post = for_operators(APIRoute, key), for_operators(json_route(bodies), key)

        def add(method: str, path: str, answer: Callable[..., Any], summary: str, kind: type[APIRoute]) -> None:
            self.routes.add_api_route(path, answer, methods=[method], summary=summary, route_class_override=kind)

        add("GET", "/v1/moves", self.latest, "The latest moves", get)
        add("POST", "/v1/moves", self.wish, "Move a replica or a request, or drain a node", post)
        add("GET", "/v1/moves/{move}", self.move, "One move", get)
        add("POST", "/v1/moves/{move}/go_on", self.go_on, "Have a move take its next step", post)
        add("POST", "/v1/moves/{move}/give_up", self.give_up, "Give a move up", post)
        add("POST", "/v1/nodes/{node}/drain", self.drain, "Have everything leave a node", get)
        add("POST", "/v1/nodes/{node}/undrain", self.undrain, "Let a node take replicas again", get)
        add("GET", "/v1/notices", self.notices, "What a flow service is told, as it happens", get)

    async def latest(self, limit: int = Query(20, ge=1, le=256)) -> dict[str, Any]:
        return {"moves": self._moves.latest(limit)}

    async def move(self, move: str) -> Any:
        return _known(self._moves.find(move), move)

    async def wish(self, body: MoveRequest, _request: Request) -> Response:
        await self._check_model(body.model)
        self._check_group(body.group)
        if body.node:
            self._check_node(body.node)
        carrier = Carrier(body.carrier) if body.carrier else None
        request = self._running(body.request) if body.request else ""

        def wanted(name: str) -> events.Event:
            if body.kind == "consolidate":
                return events.ConsolidationWanted(name, body.model, body.node)
            if body.kind == "migrate":
                return events.MigrationWanted(name, body.node, body.model, body.group, request)
            return events.NodeDrained(body.node, name)

        found = await self._moves.wish(wanted, carrier)
        if body.kind == "drain":
            self._moves.drained(body.node)
        return JSONResponse(found)

    async def go_on(self, body: GoOnRequest, request: Request) -> Response:
        move = request.path_params["move"]
        _known(self._moves.find(move), move)
        found = await unless_left(self._moves.go_on(move, Step(body.step), body.timeout_s), request)
        return Response(status_code=CLIENT_LEFT) if found is None else JSONResponse(found)

    async def give_up(self, body: GiveUpRequest, request: Request) -> Response:
        move = request.path_params["move"]
        return JSONResponse(_known(self._moves.give_up(move, body.reason), move))

    async def drain(self, node: str) -> Any:
        self._check_node(node)
        found = await self._moves.wish(lambda name: events.NodeDrained(node, name))
        self._moves.drained(node)
        return found

    async def undrain(self, node: str) -> dict[str, Any]:
        if not self._moves.is_drained(node):
            self._check_node(node)
        self._router.tell(events.NodeUndrained(node))
        self._moves.undrained(node)
        return {"node": node, "draining": False}

    async def notices(self) -> Response:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return ClosedStream(self._router.notices.listen(), "application/x-ndjson", headers)

    # ---- what there is

    async def _check_model(self, name: str) -> None:
        """ModelNotFound if nobody has heard of the model; Unavailable if that cannot be said."""
        if name and not self._router.knows(name):
            self._router.know(await self._catalog.get(name))

    def _check_node(self, name: str) -> None:
        client = self._link.client
        names = [node.name for node in client.view().nodes] if client is not None else []
        if name not in names:
            there = f"there are {', '.join(names)}" if names else "there are none"
            raise NodeNotFound(f"no node called {name} is connected: {there}", "node")

    def _check_group(self, name: str) -> None:
        there = [str(replica["group"]) for replica in self._router.replicas() if replica["group"]]
        if name and name not in there:
            known = f"there are {', '.join(there)}" if there else "there are none"
            raise GroupNotFound(f"no group called {name} runs: {known}", "group")

    def _running(self, name: str) -> str:
        """The request's own name, of which its answer's id is the beginning."""
        found = self._router.requests(name)
        if not found:
            raise RunningNotFound(f"no request called {name} is being answered", "request")
        if len(found) > 1:
            raise RunningNotFound(f"{name} has several choices, say which: {', '.join(found)}", "request")
        return found[0]


def _known(found: Any, move: str) -> Any:
    if found is None:
        raise MoveNotFound(f"no move called {move} is known", "move")
    return found
