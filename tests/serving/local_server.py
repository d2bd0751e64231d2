"""uvicorn in the test's own loop, with our connections, and a client that writes bytes as it likes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from firsttoken.ports import free_port
from serving.door.connections import MAX_HEADER_BYTES, patient_for


@asynccontextmanager
async def served(
    app: FastAPI,
    client_timeout_s: float = 1.0,
    max_body_bytes: int = 1 << 20,
    most: int = 100,
    protocol: Any = AutoHTTPProtocol,
) -> AsyncIterator[int]:
    """The app's port, until the block ends."""
    port = free_port()
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="critical",
        lifespan="off",
        http=patient_for(client_timeout_s, max_body_bytes, most, protocol),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve())
    try:
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield port
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A socket to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader, within_s: float = 10.0) -> bytes:
    """What comes until the server closes the connection."""
    data = b""
    async with asyncio.timeout(within_s):
        try:
            while piece := await reader.read(65536):
                data += piece
        except ConnectionError:
            pass
    return data
