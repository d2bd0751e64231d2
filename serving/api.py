"""The HTTP routes: OpenAI's, health, metrics, and what an operator asks."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from cluster.phases import unix_s
from serving.answers import Answerer, Ask, ask, timed_out
from serving.catalog import Catalog, ServedModel
from serving.cold_start import Ledger
from serving.door.bodies import CLIENT_LEFT, Bodies, json_route
from serving.errors import BadRequest, ContextTooLong, Overloaded, RequestError, Unavailable
from serving.history_tables import Arrival
from serving.link import ClusterLink
from serving.metrics import Metrics
from serving.router import Router
from serving.schemas import ChatRequest, CompletionRequest, GenerationRequest

Prepared = tuple[ServedModel, Sequence[tuple[int, ...]], int | None]
"""A model, prompts for it as tokens, and how many tokens of answer are wanted."""
LETTERS_PER_TOKEN = 4
"""About so many, to decide by before the tokens are known."""


class Api:
    """The routes, bound to the parts of one front end. `on_arrival` hears of each request once it has ended."""

    def __init__(
        self,
        link: ClusterLink,
        catalog: Catalog,
        router: Router,
        metrics: Metrics,
        ledger: Ledger,
        default_max_tokens: int,
        request_timeout_s: float,
        bodies: Bodies,
        on_arrival: Callable[[Arrival], object] | None = None,
    ) -> None:
        self._link, self._catalog, self._router = link, catalog, router
        self._metrics, self._ledger = metrics, ledger
        self._default_max_tokens, self._request_timeout_s = default_max_tokens, request_timeout_s
        self._on_arrival = on_arrival
        self._answerer = Answerer(router, metrics, request_timeout_s, self._ended)
        self.routes = APIRouter()
        add = self.routes.add_api_route
        add("/v1/models", self.models, methods=["GET"], summary="Published models")
        add("/v1/models/{name:path}", self.model, methods=["GET"], summary="One published model")
        route, post = json_route(bodies), ["POST"]
        add(
            "/v1/chat/completions", self.chat, methods=post, summary="Answer a conversation", route_class_override=route
        )
        add("/v1/completions", self.complete, methods=post, summary="Continue a text", route_class_override=route)
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
        return await self._served(self._chat_prompt(body, arrived_s), "chat.completion", body, request, arrived_s)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        arrived_s = time.monotonic()
        return await self._served(self._prompts(body, arrived_s), "text_completion", body, request, arrived_s)

    async def _served(
        self,
        prepared: Coroutine[Any, Any, Prepared],
        kind: str,
        body: GenerationRequest,
        request: Request,
        arrived_s: float,
    ) -> Response:
        try:
            async with asyncio.timeout(self._request_timeout_s) as deadline:
                found: Prepared | None = await _unless_left(prepared, request)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise timed_out(self._request_timeout_s) from error
        if found is None:
            return Response(status_code=CLIENT_LEFT)
        return await self._answer(kind, *found, body, request, arrived_s)

    async def _chat_prompt(self, body: ChatRequest, arrived_s: float) -> Prepared:
        messages = [message.plain() for message in body.messages]
        model = await self._model(body.model, sum(len(message["content"]) for message in messages), arrived_s)
        if model.text is None:
            raise BadRequest(f"{model.name} was published without a tokenizer: send tokens to /v1/completions", "model")
        prompt = await model.text.encode_chat(messages, {}, model.context_tokens)
        return model, [prompt], body.max_completion_tokens or body.max_tokens

    async def _prompts(self, body: CompletionRequest, arrived_s: float) -> Prepared:
        prompts = body.prompts()
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        model = await self._model(body.model, sum(map(_letters, prompts)), arrived_s, wake=bool(texts))
        if texts:
            if model.text is None:
                raise BadRequest(f"{model.name} was published without a tokenizer: send the prompt as tokens", "prompt")
            tokens = await model.text.encode(texts, model.context_tokens)
        else:
            tokens = [_checked(model, prompt) for prompt in prompts if not isinstance(prompt, str)]
        return model, tokens, body.max_tokens

    async def _model(self, name: str, letters: int, arrived_s: float, wake: bool = True) -> ServedModel:
        """The model for a prompt of so many letters. While its tokenizer is read, where that is needed, it starts already."""
        model, ready = await self._catalog.find(name)
        if ready and (model.text is None or model.text.at_hand or not wake):
            return model
        try:
            self._router.check(model, 1, 1)
        except RequestError:
            return await self._catalog.get(name)  # it is refused when it is known whether it was right at all
        with self._router.announced(model, 1 + letters // LETTERS_PER_TOKEN, arrived_s):
            model = await self._catalog.get(name)
            if model.text is not None:
                await model.text.wake()
            return model

    async def _answer(
        self,
        kind: str,
        model: ServedModel,
        prompts: Sequence[tuple[int, ...]],
        wanted: int | None,
        body: GenerationRequest,
        request: Request,
        arrived_s: float,
    ) -> Response:
        prompt_field = "messages" if kind == "chat.completion" else "prompt"
        vocabulary = _vocabulary(model)
        if any(token >= vocabulary for token in body.logit_bias):
            raise BadRequest(f"logit_bias has tokens outside of the model's vocabulary of {vocabulary}", "logit_bias")
        if not all(prompts):
            raise BadRequest(f"{prompt_field} is empty: there are no tokens to go on from", prompt_field)
        limits = [self._limit(model, prompt, wanted, prompt_field) for prompt in prompts]
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        asked = ask(
            kind, model, prompts, body.samplings(), limits, body.stop, arrived_s, body.return_token_ids, with_usage
        )
        try:
            for prompt, limit in zip(prompts, limits, strict=True):
                self._router.check(model, len(prompt), limit)
        except (Overloaded, Unavailable):
            self._ended(asked, "refused", 0)
            raise
        if body.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return _EventStream(self._answerer.events(asked), headers)
        return await self._whole(asked, request)

    async def _whole(self, asked: Ask, request: Request) -> Response:
        answer = await _unless_left(self._answerer.whole(asked), request)
        return Response(status_code=CLIENT_LEFT) if answer is None else JSONResponse(answer)

    def _ended(self, asked: Ask, outcome: str, generated_tokens: int) -> None:
        if self._on_arrival is not None:
            most = sum(submit.max_tokens for submit in asked.submits)
            self._on_arrival(
                Arrival(asked.model.name, unix_s(asked.arrived_s), asked.prompt_tokens, most, generated_tokens, outcome)
            )

    def _limit(self, model: ServedModel, prompt: Sequence[int], wanted: int | None, field: str) -> int:
        """How many tokens may be generated; ContextTooLong if prompt and wish do not fit the model."""
        room = model.context_tokens - len(prompt)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens, {model.name} takes at most {model.context_tokens} with the answer",
                field,
            )
        if wanted is not None and wanted > room:
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens and max_tokens is {wanted}: together more than the "
                f"{model.context_tokens} tokens of {model.name}'s context",
                "max_tokens",
            )
        return wanted if wanted is not None else min(room, self._default_max_tokens)

    # ---- operators

    async def health(self) -> Response:
        client = self._link.client
        if client is None:
            raise Unavailable("the cluster's scheduler does not answer", retry_after_s=5)
        return JSONResponse({"status": "ok", "nodes": len(client.view().nodes)})

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
                "stage_processes": {"idle": node.idle_stage_processes, "busy": node.busy_stage_processes},
                "rates": {name: asdict(rate) for name, rate in node.rates.items()},
            }
            for node in (client.view().nodes if client is not None else ())
        ]
        return {"nodes": nodes, "replicas": self._router.replicas()}

    async def cold_starts(self, model: str | None = None, limit: int = Query(20, ge=1, le=256)) -> dict[str, Any]:
        await self._router.settle_ledger()
        return {"cold_starts": [start.as_json() for start in self._ledger.latest(model, limit)]}

    async def explain(self, name: str, limit: int = Query(10, ge=1, le=256)) -> dict[str, Any]:
        model = await self._catalog.get(name)
        await self._router.settle_ledger()
        starts = [start.as_json() for start in self._ledger.latest(name, limit)]
        return {"model": name, **self._router.explain(model), "cold_starts": starts}


class _EventStream(StreamingResponse):
    """Server-sent events whose source is closed, and its generation ended, however the response ends.

    Starlette stops iterating when the client leaves; the generator behind would live on until it is collected.
    """

    def __init__(self, events: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _unless_left(work: Coroutine[Any, Any, Any], request: Request) -> Any:
    """The result of `work`, or None if the client leaves first; the work is cancelled then."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _checked(model: ServedModel, prompt: Sequence[int]) -> tuple[int, ...]:
    vocabulary = _vocabulary(model)
    if prompt and not (min(prompt) >= 0 and max(prompt) < vocabulary):
        raise BadRequest(f"prompt has tokens outside of the model's vocabulary of {vocabulary}", "prompt")
    return tuple(prompt)


def _letters(prompt: str | list[int]) -> int:
    return len(prompt) * (1 if isinstance(prompt, str) else LETTERS_PER_TOKEN)


def _vocabulary(model: ServedModel) -> int:
    return int(model.checkpoint.config["vocab_size"])


def _model_json(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "firsttoken"}
