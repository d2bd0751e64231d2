"""Web pages that are not ours: what a browser sends for them is refused, whatever it looks like."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.app import create_app
from serving.origins import OwnPagesOnly, is_loopback
from tests.told import frontend_config

URL = "http://127.0.0.1:8000"


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def answer(
    headers: Mapping[str, str], host: str = "127.0.0.1", allowed: Sequence[str] = (), origins: Sequence[str] = ()
) -> int:
    """The status that a POST with these headers gets."""
    app = OwnPagesOnly(_hello, host, allowed, "some.setting", origins)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        return (await client.post("/", headers=headers)).status_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": URL}, 200),
        ({"Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": URL}, 200),
        ({"Host": "LOCALHOST:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "10.1.2.3"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://127.0.0.1.evil.example:8000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://[evil"}, 403),
        ({"Origin": "http://evil.example:99999999"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}, 403),
        ({"Host": "[evil"}, 403),
        ({"Host": ""}, 403),
    ],
)
async def test_a_server_on_loopback_serves_its_own_pages_and_callers_without_any(
    headers: dict[str, str], status: int
) -> None:
    assert await answer(headers) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "api.example", "Origin": "https://api.example"}, 200),
        ({"Host": "127.0.0.1:8000", "Origin": "https://api.example"}, 200),
        ({"Host": "API.example"}, 200),
        ({"Host": "other.example"}, 403),
        ({"Host": "api.example", "Origin": "https://other.example"}, 403),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1"])
async def test_behind_a_proxy_a_server_is_called_as_is_set(headers: dict[str, str], status: int, host: str) -> None:
    assert await answer(headers, host, ["api.example"]) == status


@pytest.mark.parametrize(
    ("headers", "origins", "status"),
    [
        ({"Origin": "https://app.example"}, ["https://app.example"], 200),
        ({"Origin": "https://app.example:8443"}, ["https://app.example"], 403),
        ({"Origin": "http://app.example"}, ["https://app.example"], 403),
        ({"Origin": "https://evil.example"}, ["https://app.example"], 403),
        ({"Origin": URL}, ["https://app.example"], 200),
        ({"Origin": "https://evil.example"}, ["*"], 200),
        ({"Origin": "null"}, ["*"], 200),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, ["*"], 403),
        ({"Origin": "http://localhost:3000"}, ["local"], 200),
        ({"Origin": "https://127.0.0.1:8443"}, ["local"], 200),
        ({"Origin": "http://[::1]:3000"}, ["local"], 200),
        ({"Origin": "http://localhost.evil.example:3000"}, ["local"], 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, ["local"], 403),
        ({"Origin": "null"}, ["local"], 403),
    ],
)
async def test_pages_of_origins_that_are_set_may_ask(headers: dict[str, str], origins: list[str], status: int) -> None:
    """But by no other name than the server's."""
    assert await answer(headers, origins=origins) == status


async def test_a_server_that_others_reach_goes_by_any_name_but_for_no_foreign_page() -> None:
    assert await answer({"Host": "gpu-box:8000"}, "10.0.0.1") == 200
    assert await answer({"Host": "gpu-box:8000", "Origin": "http://gpu-box:8000"}, "10.0.0.1") == 200
    assert await answer({"Host": "gpu-box:8000", "Origin": "http://evil.example"}, "10.0.0.1") == 403


async def test_a_foreign_pages_websocket_is_closed_before_it_opens() -> None:
    """Browsers ask nobody before they open one."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    headers = [(b"host", b"127.0.0.1:8000"), (b"origin", b"http://evil.example")]
    scope = {"type": "websocket", "headers": headers, "client": ("127.0.0.1", 1)}
    await OwnPagesOnly(_hello, "127.0.0.1", (), "some.setting")(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_front_end_refuses_in_openais_shape(tmp_path: Path) -> None:
    app = create_app(frontend_config(port=8000, store_url=f"file://{tmp_path}"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        for path in ("/v1/completions", "/admin/status"):
            refused = await client.request("POST", path, headers={"Origin": "http://evil.example"}, content=b"{}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_page")
            assert "frontend.allowed_hosts" in refused.json()["error"]["message"]
        assert (await client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "gpu-box", "")),
    ],
)
def test_who_reaches_a_server(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
