"""Clients that send slowly, too much, or nothing, over real sockets; others do not notice."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.door import connections
from serving.door.unexpected import Guard
from tests.serving.local_server import connection, ended, served

pytestmark = pytest.mark.parametrize("protocol", [H11Protocol, HttpToolsProtocol])
GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"


def _app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(Guard)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @app.get("/fails")
    async def fails() -> None:
        raise LookupError("a secret of the front end")

    @app.post("/late")
    async def late(request: Request) -> dict[str, int]:
        await asyncio.sleep(0.6)
        return {"bytes": len(await request.body())}

    @app.get("/rows")
    async def rows() -> StreamingResponse:
        async def letters() -> AsyncIterator[bytes]:
            for letter in (b"a", b"b", b""):
                yield letter

        return StreamingResponse(letters())

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def letters() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                app.state.left.set()

        return StreamingResponse(letters())

    app.state.left = asyncio.Event()
    return app


async def _asks(port: int) -> bool:
    """Whether somebody else is served."""
    async with connection(port) as (reader, writer):
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return b'{"hello":"world"}' in await ended(reader)


@pytest.mark.parametrize("first", [b"", b"GET /hello HTTP/1.1\r\n"])
async def test_a_client_that_says_nothing_or_writes_headers_slowly_is_gone_in_time(protocol: Any, first: bytes) -> None:
    """One header byte a second once kept a connection, its descriptor and its memory for ever."""
    async with served(_app(), protocol=protocol, client_timeout_s=0.5) as port, connection(port) as (reader, writer):
        gone = asyncio.ensure_future(ended(reader, 5))
        for letter in first + b"X-Slow: " + b"x" * 1000 if first else b"":
            writer.write(bytes([letter]))
            await asyncio.sleep(0.02)
            if gone.done():
                break
        assert await gone == b""
        assert await _asks(port)


async def test_headers_without_end_are_not_kept(protocol: Any) -> None:
    async with served(_app(), protocol=protocol, client_timeout_s=20) as port, connection(port) as (reader, writer):
        gone = asyncio.ensure_future(ended(reader))
        writer.write(b"GET /hello HTTP/1.1\r\n")
        sent = 0
        while not gone.done() and sent < 1 << 20:
            writer.write(b"X-Many: " + b"x" * 1000 + b"\r\n")
            sent += 1010
            await asyncio.sleep(0)
        assert b"hello" not in await gone
        assert await _asks(port)


async def test_a_request_may_take_its_time_once_it_is_asked_and_the_connection_lives_on(protocol: Any) -> None:
    async with served(_app(), protocol=protocol, client_timeout_s=0.3) as port, connection(port) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST /late HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345")
            answer = await reader.readuntil(b"}")
            assert answer.endswith(b'{"bytes":5}')
        writer.write(GET + GET)
        for _ in range(2):
            assert (await reader.readuntil(b"}")).endswith(b'{"hello":"world"}')


async def test_a_client_of_http_1_0_gets_no_chunks(protocol: Any) -> None:
    """It read the lengths of chunks as a part of its stream."""
    async with served(_app(), protocol=protocol) as port:
        for path, body in ((b"rows", b"ab"), (b"hello", b'{"hello":"world"}')):
            async with connection(port) as (reader, writer):
                writer.write(b"GET /" + path + b" HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                head, _, rest = (await ended(reader)).partition(b"\r\n\r\n")
                assert (rest, b"transfer-encoding" in head.lower()) == (body, False)


async def test_what_follows_an_answered_request_has_to_come_in_time_too(protocol: Any) -> None:
    async with served(_app(), protocol=protocol, client_timeout_s=0.3) as port, connection(port) as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"}")
        writer.write(b"GET /hel")
        assert await ended(reader, 4) == b""  # uvicorn waits five seconds for a first byte, and no longer after it


async def test_a_client_that_takes_nothing_of_its_answer_loses_it(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.3)
    app = _app()
    async with served(app, protocol=protocol) as port, connection(port) as (_, writer):
        writer.write(GET.replace(b"hello", b"endless"))
        await asyncio.wait_for(app.state.left.wait(), 10)


async def test_of_too_many_connections_the_one_goes_that_waited_longest(protocol: Any) -> None:
    async with (
        served(_app(), protocol=protocol, client_timeout_s=20, most=3) as port,
        connection(port) as (oldest, _),
        connection(port) as (other, writer),
        connection(port),
    ):
        await asyncio.sleep(0.1)
        assert await _asks(port)
        assert await ended(oldest) == b""
        writer.write(GET)
        assert (await other.readuntil(b"}")).endswith(b'{"hello":"world"}')


async def test_what_nobody_expected_is_told_with_an_identifier_that_the_log_has(
    protocol: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was a bare text, and the connection ended with it."""
    async with served(_app(), protocol=protocol) as port, connection(port) as (reader, writer):
        with caplog.at_level(logging.ERROR, "serving.door.unexpected"):
            writer.write(GET.replace(b"hello", b"fails"))
            answer = (await reader.readuntil(b"}}")).decode()
        assert "500 Internal Server Error" in answer
        assert '"code":"internal_error"' in answer
        assert "secret" not in answer
        (record,) = caplog.records
        assert record.getMessage().split()[0] in answer
        assert record.exc_info is not None
        writer.write(GET)
        assert (await reader.readuntil(b"}")).endswith(b'{"hello":"world"}')
