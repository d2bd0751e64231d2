"""The HTTP routes: OpenAI's, health, metrics, and what an operator asks."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from cluster.wire.phases import unix_s
from serving.answering.answerer import Answerer
from serving.answering.ask import Ask
from serving.answering.deltas import Given
from serving.answering.responding import Responder
from serving.catalog import Catalog
from serving.cold_start import Ledger
from serving.door.bodies import Bodies, json_route
from serving.door.handlers import OPENAI
from serving.errors import ResponseNotKept, Unavailable
from serving.history.tables import Arrival
from serving.link import ClusterLink
from serving.metrics import Metrics
from serving.requests.preparing import Preparer
from serving.requests.responses import ResponsesRequest
from serving.requests.schemas import ChatRequest, CompletionRequest
from serving.router import Router


class Api:
    """The routes, bound to the parts of one front end. `on_arrival` hears of each request once it has ended."""

    def __init__(
        self,
        link: ClusterLink,
        catalog: Catalog,
        router: Router,
        metrics: Metrics,
        ledger: Ledger,
        preparer: Preparer,
        request_timeout_s: float,
        bodies: Bodies,
        on_arrival: Callable[[Arrival], object] | None = None,
    ) -> None:
        self._link, self._catalog, self._router = link, catalog, router
        self._metrics, self._ledger = metrics, ledger
        self._preparer, self._on_arrival = preparer, on_arrival
        answerer = Answerer(metrics, request_timeout_s, self._ended, router.outlook)
        self._responder = Responder(router, answerer, request_timeout_s, self._ended)
        self.routes = APIRouter()
        add = self.routes.add_api_route
        openai: dict[str, Any] = {"tags": [OPENAI]}
        post = openai | {"methods": ["POST"], "route_class_override": json_route(bodies)}
        add("/v1/models", self.models, methods=["GET"], summary="Published models", **openai)
        add("/v1/models/{name:path}", self.model, methods=["GET"], summary="One published model", **openai)
        add("/v1/chat/completions", self.chat, summary="Answer a conversation", **post)
        add("/v1/completions", self.complete, summary="Continue a text", **post)
        add("/v1/responses", self.response, summary="Answer a text or a conversation", **post)
        add("/v1/responses/{rest:path}", self.kept_response, methods=["GET", "POST", "DELETE"], include_in_schema=False)
        add("/healthz", self.health, methods=["GET"], summary="Whether requests are served")
        add("/metrics", self.metrics, methods=["GET"], summary="Metrics for Prometheus")
        add("/admin/status", self.status, methods=["GET"], summary="Nodes and replicas")
        add("/admin/explain/{name:path}", self.explain, methods=["GET"], summary="Where a model would start, and why")
        add("/admin/cold-starts", self.cold_starts, methods=["GET"], summary="Ledgers of the latest cold starts")

    # ---- OpenAI

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [_model_json(name) for name in await self._catalog.names()]}

    async def model(self, name: str) -> dict[str, Any]:
        return _model_json((await self._catalog.get(name)).name)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        arrived_s = time.monotonic()
        preparing = self._preparer.chat(body, arrived_s)
        return await self._responder.respond("chat.completion", preparing, body, request, arrived_s)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        arrived_s = time.monotonic()
        preparing = self._preparer.completion(body, arrived_s)
        return await self._responder.respond("text_completion", preparing, body, request, arrived_s)

    async def response(self, body: ResponsesRequest, request: Request) -> Response:
        arrived_s = time.monotonic()
        chat = body.chat({})
        preparing = self._preparer.response(chat, arrived_s)
        return await self._responder.respond("response", preparing, chat, request, arrived_s, body.echoed())

    async def kept_response(self) -> Response:
        raise ResponseNotKept(
            "answers are not kept: ask POST /v1/responses, and send what was said before again, as items of input"
        )

    def _ended(self, asked: Ask, outcome: str, given: Given) -> None:
        if self._on_arrival is not None:
            most = sum(submit.max_tokens for submit in asked.submits)
            self._on_arrival(
                Arrival(
                    asked.model.name, unix_s(asked.arrived_s), asked.prompt_tokens, most, given.tokens, outcome,
                    given.ttft_s, given.last_s, given.cold,
                )
            )  # fmt: skip

    # ---- operators

    async def health(self) -> Response:
        client = self._link.client
        if client is None:
            raise Unavailable("the cluster's scheduler does not answer", retry_after_s=5)
        return JSONResponse({"status": "ok" if client.joined else "no scheduler", "nodes": len(client.view().nodes)})

    async def metrics(self) -> Response:
        self._router.measure()
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def status(self) -> dict[str, Any]:
        client = self._link.client
        nodes = [
            {
                "name": node.name,
                "host": node.host,
                "dram_used_bytes": node.dram_used_bytes,
                "dram_bytes": node.dram_bytes,
                "ssd_used_bytes": node.ssd_used_bytes,
                "ssd_bytes": node.ssd_bytes,
                "device_reserved_bytes": node.device_reserved_bytes,
                "device_bytes": node.device_bytes,
                "context_bytes": node.context_bytes,
                "gpu": node.gpu,
                "machine": node.machine,
                "draining": node.draining or self._router.moves.is_drained(node.name),
                "stage_processes": {"idle": node.idle_stage_processes, "busy": node.busy_stage_processes},
                "rates": {name: asdict(rate) for name, rate in node.rates.items()},
            }
            for node in (client.view().nodes if client is not None else ())
        ]
        return {
            "nodes": nodes,
            "replicas": self._router.replicas(),
            "moves": self._router.moves.under_way(),
            "plan": self._router.plans.summary(),
        }

    async def cold_starts(self, model: str | None = None, limit: int = Query(20, ge=1, le=256)) -> dict[str, Any]:
        await self._router.settle_ledger()
        return {"cold_starts": [start.as_json() for start in self._ledger.latest(model, limit)]}

    async def explain(self, name: str, limit: int = Query(10, ge=1, le=256)) -> dict[str, Any]:
        model = await self._catalog.get(name)
        await self._router.settle_ledger()
        starts = [start.as_json() for start in self._ledger.latest(name, limit)]
        return {"model": name, **self._router.explain(model), "cold_starts": starts}


def _model_json(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "firsttoken"}
