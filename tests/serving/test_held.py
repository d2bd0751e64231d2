"""What clients see of being held, over HTTP: statuses before anything is begun, events after, and going while one waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import openai
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
from tests.asking import NO_AUTHORITIES
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

    async def ask(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30.0) as client:
            url = f"http://127.0.0.1:{self.port}/v1/completions"
            return await client.post(url, json=self.body | fields, headers=headers)

    @property
    def held(self) -> float:
        return self.now.measured("firsttoken_held_requests")


@asynccontextmanager
async def front_end(
    *nodes: Any, catalog: Catalog | None = None, headers_within_s: float = 1.0, **more: Any
) -> AsyncIterator[Served]:
    catalog = catalog or Catalog()
    async with routed(nodes or (world_node("a", **FAST),), **more) as now:
        app, arrivals = FastAPI(), list[Arrival]()
        preparer = Preparer(catalog, now.router, 16, as_makers_say=False)  # type: ignore[arg-type]
        bodies, link = Bodies(1 << 20, 10.0, {}), SimpleNamespace(client=now.cluster)
        api = Api(link, catalog, now.router, now.metrics, now.ledger, preparer, 30.0, bodies, arrivals.append)  # type: ignore[arg-type]
        api._responder._headers_within_s = headers_within_s
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
    async with front_end(world_node("a", **FAST | {"formed": 1.5}), max_held_per_model=2) as there:
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


# ---- what headers say, and when they leave

SLOW = {"nic": 25e6, "decode": 1e12, "formed": 0.3}
"""63 MB come in two and a half seconds."""


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_say_cold_or_warm_the_degree_and_what_was_predicted(stream: bool) -> None:
    async with front_end() as there:
        cold, warm = await there.ask(stream=stream), await there.ask(stream=stream)
        starts = [answer.headers["x-firsttoken-start"] for answer in (cold, warm)]
        assert starts == ["cold", "warm"]
        assert {answer.headers["x-firsttoken-degree"] for answer in (cold, warm)} == {"1"}
        assert float(cold.headers["x-firsttoken-predicted-s"]) > float(warm.headers["x-firsttoken-predicted-s"]) >= 0.0
        told = _events(cold)[0]["id"] if stream else cold.json()["id"]
        assert cold.headers["x-request-id"] == told


async def test_a_held_streams_headers_and_first_comment_are_there_long_before_its_first_token() -> None:
    async with front_end(world_node("a", formed=20.0)) as there:
        url, body = f"http://127.0.0.1:{there.port}/v1/completions", there.body | {"stream": True}
        async with httpx.AsyncClient(timeout=10.0) as client, client.stream("POST", url, json=body) as answer:
            assert answer.headers["x-firsttoken-start"] == "cold"
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith(": cold start of m: forming 1 process(es)")
            assert there.held == 1.0


async def test_who_joins_a_start_is_told_so() -> None:
    async with front_end() as there:
        first = asyncio.ensure_future(there.ask())
        await until(lambda: there.held == 1.0)
        second = await there.ask()
        assert [(await first).headers["x-firsttoken-start"], second.headers["x-firsttoken-start"]] == [
            "cold",
            "starting",
        ]


class SlowCatalog(Catalog):
    """The model is found once it shall be."""

    def __init__(self) -> None:
        self.found = asyncio.Event()

    async def find(self, name: str) -> Any:
        await self.found.wait()
        return await super().find(name)


async def test_a_stream_whose_preparing_takes_long_begins_before_it_and_ends_with_what_is_wrong() -> None:
    """As long as its headers have not left, what is wrong is a status."""
    catalog = SlowCatalog()
    async with front_end(catalog=catalog, headers_within_s=0.05) as there:
        url = f"http://127.0.0.1:{there.port}/v1/completions"
        for prompt, code in ((list(PROMPT), None), ([7] * 2000, "context_length_exceeded")):
            catalog.found.clear()
            body = there.body | {"stream": True, "prompt": prompt}
            async with httpx.AsyncClient(timeout=10.0) as client, client.stream("POST", url, json=body) as answer:
                lines = answer.aiter_lines()
                assert (answer.status_code, (await anext(lines))[:2]) == (200, ": ")
                catalog.found.set()
                said = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
            assert said[-1].get("error", {}).get("code") == code
            assert there.now.router._tickets == {}
        quick = await there.ask(stream=True, prompt=[7] * 2000)
        assert (quick.status_code, quick.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert quick.headers["x-request-id"].startswith("cmpl-")


# ---- deadlines


@pytest.mark.parametrize("stream", [False, True])
async def test_who_will_not_be_in_time_is_refused_at_once_with_the_seconds_after_which_it_would(stream: bool) -> None:
    async with front_end(world_node("a", **SLOW)) as there:
        hurried = {"X-Firsttoken-Deadline-S": "1"}
        refused = await there.ask(hurried, stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_unreachable")
        assert refused.headers["retry-after"] == "2"
        assert [arrival.outcome for arrival in there.arrivals] == ["refused"]
        await until(lambda: there.now.states() == ["serving"], 10.0)
        await asyncio.sleep(float(refused.headers["retry-after"]))
        again = await there.ask(hurried, stream=stream)
        assert again.status_code == 200


async def test_an_openai_client_that_reads_no_longer_is_refused_and_comes_back_by_itself() -> None:
    async with front_end(world_node("a", **SLOW)) as there:
        http = openai.DefaultAsyncHttpxClient(verify=NO_AUTHORITIES)
        url = f"http://127.0.0.1:{there.port}/v1"
        async with openai.AsyncOpenAI(
            base_url=url, api_key="none", timeout=1.0, max_retries=5, http_client=http
        ) as client:
            answer = await client.completions.create(model="m", prompt=list(PROMPT), max_tokens=8)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 8
        outcomes = [arrival.outcome for arrival in there.arrivals]
        assert (set(outcomes[:-1]), outcomes[-1]) == (
            {"refused"},
            "served",
        )  # how often hangs on how busy the machine is


async def test_streams_have_heartbeats_and_are_read_for_as_long_as_they_come() -> None:
    async with front_end(world_node("a", nic=40e6, decode=1e12, formed=0.3)) as there:
        answer = await there.ask({"x-stainless-read-timeout": "0.5"}, stream=True)
        assert (answer.status_code, answer.text.endswith("data: [DONE]\n\n")) == (200, True)


async def test_where_nothing_is_predicted_the_deadline_itself_ends_it() -> None:
    """Another model has the only room, and is not done."""
    async with front_end(world_node("a", 100_000_000, nic=1e9, decode=1e9, formed=0.1)) as there:
        other = there.now.ask(served_model("other"), tokens=500)
        await other.until(1)
        answer = await there.ask({"X-Firsttoken-Deadline-S": "0.3"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        await other.leave()


async def test_one_that_runs_without_a_token_until_its_deadline_is_timed_out() -> None:
    async with front_end(world_node("a", formed=0.1, decode=40e6, nic=1e9)) as there:
        await there.ask(max_tokens=1)
        answer = await there.ask({"X-Firsttoken-Deadline-S": "0.3"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        assert "as long as the client waits" in answer.json()["error"]["message"]


@pytest.mark.parametrize("said", ["", "soon", "0", "-1", "nan", "inf"])
async def test_a_deadline_that_is_no_number_of_seconds_is_400_and_named(said: str) -> None:
    async with front_end() as there:
        answer = await there.ask({"X-Firsttoken-Deadline-S": said})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Firsttoken-Deadline-S")
