"""What a body may be, over real sockets: how large, how slow, and which JSON."""

import asyncio
import gzip
import json
import tracemalloc
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from serving.door import bodies
from serving.door.bodies import Bodies, json_route
from serving.door.handlers import add_handlers
from serving.requests.schemas import MAX_CHOICES, CompletionRequest
from tests.serving.local_server import connection, ended, served

MAX_BYTES = 100_000
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class _Echo:
    """Says how many prompts there are."""

    def __init__(self, timeout_s: float = 5.0, max_bytes: int = MAX_BYTES) -> None:
        self.bodies = Bodies(max_bytes, timeout_s, {MAX_CHOICES: 128})
        self.app = FastAPI()
        router = APIRouter()
        router.add_api_route("/v1", self.prompts, methods=["POST"], route_class_override=json_route(self.bodies))
        self.app.include_router(router)
        add_handlers(self.app)

    async def prompts(self, body: CompletionRequest, request: Request) -> JSONResponse:
        return JSONResponse({"prompts": len(body.prompts())})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://x")


async def _answer(content: bytes, max_bytes: int = 16 << 20) -> tuple[int, dict[str, Any]]:
    async with _Echo(max_bytes=max_bytes).client() as client:
        answer = await client.post("/v1", content=content, headers=JSON)
        return answer.status_code, answer.json()


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async with served(_Echo().app, max_body_bytes=MAX_BYTES) as port, connection(port) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 120000000\r\n\r\n")
        answer = (await reader.readuntil(b"}}")).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "frontend.max_body_bytes" in answer
    assert '"code":"body_too_large"' in answer


async def test_a_body_without_a_length_is_read_up_to_the_limit() -> None:
    """120 MB once became 20 GB of memory. As much again is dropped, for clients that send all before they read."""
    async with served(_Echo().app, max_body_bytes=MAX_BYTES) as port, connection(port) as (reader, writer):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        gone = asyncio.ensure_future(ended(reader))
        chunk, sent = b"10000\r\n" + b"x" * 65536 + b"\r\n", 0
        while sent < 100_000_000 and not gone.done():
            writer.write(chunk)
            sent += 65536
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except (TimeoutError, ConnectionError):
                break
        assert (await gone).startswith(b"HTTP/1.1 413")
    assert sent < 20_000_000  # what lies in the sockets' buffers, not what we read


async def test_a_client_that_sends_all_of_it_first_gets_its_answer_and_keeps_its_connection() -> None:
    async with served(_Echo().app, max_body_bytes=MAX_BYTES) as port, httpx.AsyncClient() as client:
        for content in (b"x" * (MAX_BYTES + 50_000), b'{"model": "m", "prompt": "hi"}'):
            answer = await client.post(f"http://127.0.0.1:{port}/v1", content=content, headers=JSON)
            assert answer.status_code == (413 if len(content) > MAX_BYTES else 200)


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with served(_Echo(timeout_s=0.3).app) as port, connection(port) as (reader, writer):
        writer.write(HEAD + b'Content-Length: 1000\r\n\r\n{"model')
        answer = await ended(reader)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"frontend.client_timeout_s" in answer


async def test_large_bodies_that_many_send_slowly_do_not_keep_small_ones_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODIES", 1)
    echo = _Echo()
    half = HEAD + b"Content-Length: 99000\r\n\r\n" + b" " * 98_000
    async with served(echo.app, max_body_bytes=MAX_BYTES) as port:
        async with connection(port) as (_, one), connection(port) as (_, two), connection(port) as (_, three):
            for writer in (one, two, three):
                writer.write(half)
            while echo.bodies._reading_bytes < 3 * (98_000 - bodies.SMALL_BYTES):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                small = await client.post("/v1", json={"model": "m", "prompt": "hi"})
                large = await client.post("/v1", json={"model": "m", "prompt": "x" * 90_000})
        assert (small.status_code, large.status_code) == (200, 503)
        assert large.headers["retry-after"] == "5"
        while echo.bodies._reading_bytes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_what_does_not_say_that_it_is_json_is_refused(kind: str | None) -> None:
    """A page of another site can have a browser send such bodies, and no others, without being asked."""
    async with _Echo().client() as client:
        headers = {"Content-Type": kind} if kind is not None else {}
        answer = await client.post("/v1", content=b'{"model": "m", "prompt": "hi"}', headers=headers)
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


async def test_a_body_that_is_compressed_is_refused_as_such() -> None:
    """It was told that a value is expected at line 1."""
    async with _Echo().client() as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = await client.post("/v1", content=gzip.compress(b'{"model": "m", "prompt": "hi"}'), headers=headers)
    assert answer.status_code == 400
    assert "send it as it is, not as gzip" in answer.json()["error"]["message"]


_HEAD = b'{"model": "m", "prompt": "hi", '


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a JSON object"),
        (b"{nope", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"model": "\xff"}', "not a JSON object"),
        ('{"model": "m", "prompt": "hi"}'.encode("utf-16"), "not a JSON object"),
        (_HEAD + b'"x": ' + b"[" * 1_000, "not a JSON object"),
        (_HEAD + b'"x": ' + b"[" * 1_000_000, "objects and arrays"),
        (_HEAD + b'"x": ' + b'{"a":' * 1_000_000, "objects and arrays"),
        (_HEAD + b'"seed": ' + b"9" * 100_000 + b"}", "not a JSON object"),
        (_HEAD + b'"temperature": NaN}', "not a JSON object"),
        (_HEAD + b'"temperature": 1e999}', "temperature"),
        (_HEAD + b'"model": "other"}', "duplicate key"),
        (_HEAD + b'"x": [' + b"{}," * 2_000_000 + b"{}]}", "objects and arrays"),
    ],
)  # fmt: skip
async def test_json_that_is_none_or_is_meant_to_harm_is_refused(content: bytes, says: str) -> None:
    tracemalloc.start()
    try:
        status, answer = await _answer(content)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert status == 400
    assert says in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert peak_bytes < 6 * len(content) + 10_000_000


@pytest.mark.parametrize("field", ["prompt", "stop", "user"])
async def test_half_a_character_is_refused_at_its_field(field: str) -> None:
    """No tokenizer has tokens for it; one of them ended the request with status 500."""
    body = json.dumps({"model": "m", "prompt": "hi", "x": "\U0001f642", field: "a\ud83d"}).encode()
    status, answer = await _answer(body)
    assert (status, answer["error"]["param"]) == (400, field)


async def test_both_halves_are_a_character() -> None:
    assert await _answer(b'{"model": "m", "prompt": "\\ud83d\\ude42"}') == (200, {"prompts": 1})


async def test_brackets_in_a_text_are_letters() -> None:
    content = json.dumps({"model": "m", "prompt": 'f({"a": [1]})\\' * 100_000}).encode()
    assert await _answer(content) == (200, {"prompts": 1})


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"prompt": [[5]] * 20_000, "n": 16}, 400, "prompt"),
        ({"prompt": ["x"] * 129}, 400, "prompt"),
        ({"prompt": [[5]] * 9, "n": 16}, 400, "prompt"),
        ({"prompt": [[5]] * 8, "n": 16}, 200, None),
        ({"prompt": [5] * 20_000, "n": 16}, 200, None),
    ],
)
async def test_the_choices_of_a_request_are_bounded(fields: dict[str, Any], status: int, param: str | None) -> None:
    """20,000 prompts of 16 choices each kept the front end busy for minutes after their client had left."""
    found, answer = await _answer(json.dumps({"model": "m", **fields}).encode())
    assert (found, answer.get("error", {}).get("param")) == (status, param)
    if param is not None:
        assert "frontend.max_choices" in answer["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [None] * 500_000}, {"prompt": [5] + ["x"] * 500_000}, {"prompt": [["x"] * 500_000]},
        {"prompt": "hi", "stop": [5] * 500_000}, {"prompt": "hi", "logit_bias": dict.fromkeys(map(str, range(300_000)))},
        {"prompt": "hi", "stop": ["x" * 300]}, {"prompt": "hi", "logit_bias": {"x" * 1_000_000: 1}},
        {"prompt": "hi", "user": "x" * 2000}, {"prompt": "hi", "x" * 1_000_000: "\ud83d"},
    ],
)  # fmt: skip
async def test_of_many_errors_the_first_is_enough(fields: dict[str, Any]) -> None:
    """Each had a description of its own: a body of a few megabytes became gigabytes."""
    content = json.dumps({"model": "m", **fields}).encode()
    tracemalloc.start()
    try:
        status, answer = await _answer(content)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert status == 400
    assert len(answer["error"]["message"]) < 500
    assert peak_bytes < 20 * len(content) + 10_000_000


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    echo = _Echo()
    async with served(echo.app) as port:
        async with connection(port) as (_, writer):
            writer.write(HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 80_000)
            while not echo.bodies._reading_bytes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        while echo.bodies._reading_bytes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not caplog.records


def test_the_routes_are_described_as_if_fastapi_read_the_bodies() -> None:
    schema = _Echo().app.openapi()
    body = schema["paths"]["/v1"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/CompletionRequest"}
    assert "prompt" in schema["components"]["schemas"]["CompletionRequest"]["properties"]
