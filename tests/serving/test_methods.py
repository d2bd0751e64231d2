"""HEAD and OPTIONS, and pages of other origins: what browsers and load balancers ask before anything else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from serving.app import create_app
from serving.door.methods import Methods
from serving.door.unexpected import Guard
from tests.serving.local_server import served
from tests.told import frontend_config

APP = "https://app.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-stainless-os"}
Client = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """A client of a front end without a cluster, over a socket."""

    @asynccontextmanager
    async def opened(cors_origins: Sequence[str] = (), **config: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(frontend_config(store_url=f"file://{tmp_path}", cors_origins=cors_origins, **config))
        async with served(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client

    return opened


async def test_head_is_answered_as_get_without_a_body(client: Client) -> None:
    """Load balancers ask so whether a server is well; they were told 405."""
    async with client() as asking:
        for path, status in (
            ("/v1/models", 200),
            ("/healthz", 503),
            ("/metrics", 200),
            ("/v1/models/nobody", 404),
            ("/x", 404),
        ):
            head, get = await asking.head(path), await asking.get(path)
            assert (head.status_code, head.content) == (get.status_code, b"") == (status, b"")
            assert head.headers["content-type"] == get.headers["content-type"]
        assert (await asking.head("/v1/completions")).status_code == 405


async def test_a_stream_is_not_begun_for_who_asks_what_its_headers_are() -> None:
    """/v1/notices has no end: HEAD waited for it, and who asked was told of moves that others should carry out."""
    begun = list[bool]()

    async def rows() -> AsyncIterator[bytes]:
        begun.append(True)
        while True:
            yield b""
            await asyncio.sleep(0.01)

    app = FastAPI()
    app.add_api_route("/rows", lambda: StreamingResponse(rows(), media_type="application/x-ndjson"))
    app.add_middleware(Guard)
    app.add_middleware(Methods, routes=app.routes)
    async with served(app) as port, httpx.AsyncClient(timeout=5) as asking:
        answer = await asking.head(f"http://127.0.0.1:{port}/rows")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        assert begun == []


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/v1/chat/completions", 204, "POST, OPTIONS"), ("/v1/models", 204, "GET, HEAD, OPTIONS"),
        ("/v1/models/org/name", 204, "GET, HEAD, OPTIONS"), ("/docs", 204, "GET, HEAD, OPTIONS"), ("/x", 404, None),
    ],
)  # fmt: skip
async def test_options_says_what_a_path_takes(client: Client, path: str, status: int, allow: str | None) -> None:
    async with client() as asking:
        answer = await asking.options(path)
        assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [([APP], APP, APP), (["*"], "http://localhost:3000", "*"), ([APP], "https://evil.example", None), ([], APP, None)],
)
async def test_a_page_is_told_beforehand_whether_it_may_ask(
    client: Client, origins: list[str], origin: str, allowed: str | None
) -> None:
    async with client(origins) as asking:
        answer = await asking.options("/v1/chat/completions", headers={"Origin": origin, **PREFLIGHT})
        assert answer.status_code == (200 if allowed else 403)
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert "access-control-allow-credentials" not in answer.headers
        if allowed:
            assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
            assert "POST" in answer.headers["access-control-allow-methods"]
        else:
            assert answer.json()["error"]["code"] == "foreign_page"


@pytest.mark.parametrize("origins", [[APP], ["*"]])
async def test_a_page_that_may_ask_also_reads_errors(
    client: Client, origins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the header a browser shows its page none of what an answer says, which makes errors riddles."""

    async def fails(_catalog: object, _name: str) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("serving.catalog.Catalog.get", fails)
    async with client(origins, max_body_bytes=1000) as asking:
        asked = [
            ("GET", "/v1/models", None, 200), ("GET", "/x", None, 404), ("POST", "/v1/completions", {}, 400),
            ("POST", "/v1/completions", {"model": "nobody", "prompt": "x"}, 404), ("GET", "/v1/models/m", None, 500),
            ("POST", "/v1/completions", {"model": "x" * 2000}, 413),
        ]  # fmt: skip
        for method, path, body, status in asked:
            answer = await asking.request(method, path, json=body, headers={"Origin": APP})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == origins[0]
            assert "Retry-After" in answer.headers["access-control-expose-headers"]


async def test_a_query_is_refused_as_fields_are(client: Client) -> None:
    async with client() as asking:
        for query, said in (("limit=0", "limit: it is less than 1"), ("limit=x", "limit: it is not a whole number")):
            answer = await asking.get(f"/admin/cold-starts?{query}")
            assert answer.status_code == 400
            assert answer.json()["error"] == {
                "message": said, "type": "invalid_request_error", "param": "limit", "code": None,
            }  # fmt: skip


async def test_a_surprise_is_a_500_that_ends_no_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever opening a model raises."""

    async def fails(_catalog: object, name: str) -> None:
        raise ValueError(f"{name} is odd")

    monkeypatch.setattr("serving.catalog.Catalog.find", fails)
    async with client() as asking:
        answer = await asking.post("/v1/completions", json={"model": "m", "prompt": "x"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (500, "internal_error", "server_error")
        assert "odd" not in error["message"]
        (record,) = [record for record in caplog.records if record.exc_info]
        assert record.getMessage().split()[0] in error["message"]
        assert answer.headers.get("connection") != "close"
        assert (await asking.get("/v1/models")).status_code == 200


async def test_a_path_of_v1_that_is_not_there_names_those_that_are(client: Client) -> None:
    async with client() as asking:
        answer = await asking.post("/v1/audio/speech", json={})
        assert answer.status_code == 404
        said = answer.json()["error"]["message"]
        assert said.startswith("there is no /v1/audio/speech here; there are GET /v1/models, ")
        for path in ("chat/completions", "completions", "responses", "embeddings"):
            assert f"POST /v1/{path}" in said
        assert "/v1/moves" not in said


async def test_a_method_that_a_path_does_not_take_names_those_that_it_does(client: Client) -> None:
    async with client() as asking:
        answer = await asking.get("/v1/chat/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json()["error"]["message"] == "/v1/chat/completions does not take GET; it takes POST"


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_answers_are_not_kept_and_who_asks_for_one_is_told_what_to_do(client: Client, method: str) -> None:
    async with client() as asking:
        answer = await asking.request(method, "/v1/responses/resp_1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
        assert "POST /v1/responses" in answer.json()["error"]["message"]
