"""A front end for operators and clients, over real HTTP and a cluster in memory, at the speed that time has."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from schedules.facts import Node
from serving.api import Api
from serving.door.bodies import Bodies
from serving.door.handlers import add_handlers
from serving.errors import ModelNotFound
from serving.history.history import History
from serving.history.kept_requests import KeptRequests
from serving.moving.operators import Operators
from serving.prewarming.routes import PlanRoutes
from serving.requests.preparing import Preparer
from tests.schedules.worlds import world_node
from tests.serving.local_server import served
from tests.serving.routed import PROMPT, Routed, routed
from tests.serving.routed import served as served_model
from tests.told import objectives_of

KEY = "a-key-that-nobody-guesses"
MODEL = served_model("m")
SPEEDS = {"nic": 1e9, "decode": 1e10, "formed": 0.1}
NODES = tuple(world_node(name, **SPEEDS) for name in "abc")
PIPELINES = {
    "objectives": objectives_of(kv_tokens=16384, max_degree=2, keep_alive_s=60.0), "policy": "fixed", "consolidate": False,
}  # fmt: skip


class Catalog:
    """Has one model, and it is at hand."""

    async def find(self, _name: str) -> Any:
        return MODEL, True

    async def get(self, name: str) -> Any:
        if name != "m":
            raise ModelNotFound(f"the model {name!r} does not exist", "model")
        return MODEL


class Operated:
    """The front end, as it is asked."""

    def __init__(self, now: Routed, port: int) -> None:
        self.now, self.port = now, port
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0, trust_env=False)
        self.key = KEY

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self._client.get(path, params=query, headers=self.headers)

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self._client.post(path, json=body, headers=self.headers)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def answer(self, tokens: int) -> list[int]:
        """What a client reads."""
        body = {"model": "m", "prompt": list(PROMPT), "max_tokens": tokens, "return_token_ids": True, "temperature": 0}
        answer = await self._client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        found: list[int] = answer.json()["choices"][0]["token_ids"]
        return found

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[list[dict[str, Any]]]:
        """What a listener hears, as it does."""
        heard: list[dict[str, Any]] = []

        async def listen() -> None:
            async with self._client.stream("GET", "/v1/notices", headers=self.headers) as answer:
                assert answer.status_code == 200
                async for line in answer.aiter_lines():
                    heard.append(json.loads(line))  # noqa: PERF401 - while it comes

        listening = asyncio.ensure_future(listen())
        try:
            yield heard
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def close(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def operated(
    key: str = KEY, history: History | None = None, nodes: Sequence[Node] = NODES, **limits: Any
) -> AsyncIterator[Operated]:
    async with routed(nodes, [MODEL], **{**PIPELINES, **limits}) as now:
        app = FastAPI()
        preparer = Preparer(Catalog(), now.router, 16, as_makers_say=False)  # type: ignore[arg-type]
        bodies, link, catalog = Bodies(1 << 20, 10.0, {}), SimpleNamespace(client=now.cluster), Catalog()
        api = Api(link, catalog, now.router, now.metrics, now.ledger, preparer, 30.0, bodies)  # type: ignore[arg-type]
        app.include_router(api.routes)
        app.include_router(KeptRequests(history).routes)
        app.include_router(PlanRoutes(now.router.plans, bodies, key).routes)
        app.include_router(Operators(link, catalog, now.router, bodies, key).routes)  # type: ignore[arg-type]
        add_handlers(app)
        async with served(app) as port:
            front_end = Operated(now, port)
            try:
                yield front_end
            finally:
                now.router.notices.close()
                await front_end.close()
