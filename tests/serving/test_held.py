"""What clients see of being held, over HTTP: statuses before anything is begun, events after, and going while one waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from cluster.errors import StageFailed
from cluster.fake import FakeCluster
from cluster.fake_group import FakeGroup
from serving.api import Api
from serving.door.bodies import Bodies
from serving.door.handlers import add_handlers
from serving.history.tables import Arrival
from serving.requests.preparing import Preparer
from tests.schedules.worlds import world_node
from tests.serving.local_server import connection, served
from tests.serving.routed import PROMPT, Routed, routed, said, until
from tests.serving.routed import served as served_model

FAST = {"nic": 1e9, "decode": 1e12, "formed": 0.3}
MODEL = served_model("m")


class Catalog:
    """Has one model, and it is at hand."""

    async def find(self, _name: str) -> Any:
        return MODEL, True


class Served:
    """A front end without stores, over a cluster in memory, at the speed that time has."""

    def __init__(self, now: Routed, port: int, arrivals: list[Arrival]) -> None:
        self.now, self.port, self.arrivals = now, port, arrivals
        self.body: dict[str, Any] = {"model": "m", "prompt": list(PROMPT), "max_tokens": 8, "return_token_ids": True}

    async def ask(self, **fields: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30.0) as client:
            return await client.post(f"http://127.0.0.1:{self.port}/v1/completions", json=self.body | fields)

    @property
    def held(self) -> float:
        return self.now.measured("firsttoken_held_requests")


@asynccontextmanager
async def front_end(*nodes: Any, **more: Any) -> AsyncIterator[Served]:
    async with routed(nodes or (world_node("a", **FAST),), **more) as now:
        app, arrivals = FastAPI(), list[Arrival]()
        preparer = Preparer(Catalog(), now.router, 16, as_makers_say=False)  # type: ignore[arg-type]
        bodies, link = Bodies(1 << 20, 10.0, {}), SimpleNamespace(client=now.cluster)
        api = Api(link, Catalog(), now.router, now.metrics, now.ledger, preparer, 30.0, bodies, arrivals.append)  # type: ignore[arg-type]
        app.include_router(api.routes)
        add_handlers(app)
        async with served(app) as port:
            yield Served(now, port, arrivals)


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("stream", [False, True])
async def test_without_nodes_a_stream_does_not_begin(stream: bool) -> None:
    async with front_end() as there:
        there.now.cluster.lose_node("a")
        await until(lambda: not there.now.cluster.view().nodes)
        answer = await there.ask(stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert [arrival.outcome for arrival in there.arrivals] == ["refused"]


@pytest.mark.parametrize("stream", [False, True])
async def test_beyond_the_bound_a_stream_does_not_begin_and_who_waits_is_served(stream: bool) -> None:
    async with front_end(max_held_per_model=2) as there:
        waiting = [asyncio.ensure_future(there.ask(stream=stream)) for _ in range(2)]
        await until(lambda: there.held == 2.0)
        answer = await there.ask(stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_held_requests")
        assert int(answer.headers["retry-after"]) > 0
        first, second = await asyncio.gather(*waiting)
        assert (first.status_code, second.status_code) == (200, 200)
        if not stream:
            assert first.json()["choices"][0]["token_ids"] == said("m", 8)
        assert [arrival.outcome for arrival in there.arrivals] == ["refused", "served", "served"]


async def test_a_start_that_fails_is_a_status_or_a_streams_last_event() -> None:
    class Failing(FakeCluster):
        async def form(self, *_: Any, **_how: Any) -> FakeGroup:
            raise StageFailed("its stages fell over")

    async with front_end(kind=Failing) as there:
        whole, streamed = await there.ask(), await there.ask(stream=True)
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "model_unavailable")
        assert int(whole.headers["retry-after"]) > 0
        (only,) = _events(streamed)
        assert (streamed.status_code, only["error"]["code"]) == (200, "model_unavailable")
        assert [arrival.outcome for arrival in there.arrivals] == ["failed", "failed"]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_goes_while_held_waits_no_more(stream: bool) -> None:
    async with front_end(world_node("a", formed=20.0)) as there:
        body = json.dumps(there.body | {"stream": stream}).encode()
        fields = f"Host: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"POST /v1/completions HTTP/1.1\r\n{fields}\r\n".encode()
        async with connection(there.port) as (_, writer):
            writer.write(head + body)
            await until(lambda: there.held == 1.0, 10.0)
        await until(lambda: there.held == 0.0, 10.0)
        assert there.now.router._tickets == {}
        await until(lambda: [arrival.outcome for arrival in there.arrivals] == ["cancelled"])
