"""Connections that keep nobody waiting: uvicorn's protocol, with a time in which a client has to say what it wants.

uvicorn gives up connections that are idle between requests; it waits without end for the first request, for the rest of its
headers, and for a client to take its answer.
"""

import asyncio
import resource
import sys
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

MAX_HEADER_BYTES = 1 << 16
MAX_DESCRIPTORS = 1 << 16
STALLED_S = 60.0
"""How long a client may take nothing of an answer that waits for it."""


def most_connections() -> int:
    """Half of the descriptors that this process may have, which from here on are as many as it may ask for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted // 2


READ_ON = 2
"""So many times what a body may have is read of one that is refused for its size: who sends a little too much reads why."""


def patient_for(
    client_timeout_s: float, max_body_bytes: int, most: int, protocol: Any = AutoHTTPProtocol
) -> type[asyncio.Protocol]:
    """A protocol for uvicorn that closes a connection when its client takes longer than `client_timeout_s` for the headers
    of a request, or sends more than MAX_HEADER_BYTES of them.

    After an early answer the rest of a body is read and dropped for as long, and up to READ_ON `max_body_bytes`: many clients
    read no answer before they have sent all, and lose it if the connection closes before. With more than `most`
    connections the one goes that has waited longest for its client.
    """
    limits = {"client_timeout_s": client_timeout_s, "max_body_bytes": max_body_bytes, "most": most}
    return type("Connection", (_Patient, protocol), limits)


class _Patient(asyncio.Protocol):
    """Goes before a protocol of uvicorn's, whose connections, cycles and transport it sees."""

    client_timeout_s: float
    max_body_bytes: int
    most: int
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._unasked_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.most:
            _drop_longest_waiting(self.connections)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._waits:
            self._stop_waiting()
            return
        self._unasked_bytes += len(data)
        rest = READ_ON * self.max_body_bytes if self.cycle is not None and self.cycle.more_body else 0
        if self._unasked_bytes > MAX_HEADER_BYTES + rest:
            self.transport.abort()
        elif self._due is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """A request's headers are there: httptools says so, by whose protocol clients of HTTP/1.0 would get chunks."""
        super().on_headers_complete()  # type: ignore[misc]
        if self.cycle is not None and self.cycle.scope["http_version"] == "1.0":
            self.cycle.send = _until_closed(self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._resume()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._resume()

    @property
    def due_s(self) -> float | None:
        """When, by the loop's clock, the client's time is over; None while it is not waited for."""
        return self._due.when() if self._due is not None else None

    @property
    def _waits(self) -> bool:
        """Whether the client has yet to ask for something."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._due = self.loop.call_later(self.client_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        self._unasked_bytes = 0
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        if self._waits:
            self.transport.abort()

    def _resume(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _until_closed(cycle: Any) -> Send:
    """What sends an answer of a length that nobody knows to a client of HTTP/1.0: it ends with the connection, as all do."""
    send = cycle.send
    streamed = False

    async def sending(message: Message) -> None:
        nonlocal streamed
        if message["type"] == "http.response.start":
            streamed = "content-length" not in Headers(raw=message.get("headers", ()))
            if streamed:
                cycle.chunked_encoding = False
        elif streamed:
            cycle.expected_content_length = sys.maxsize if message.get("more_body") else len(message.get("body", b""))
        await send(message)

    return sending


def _drop_longest_waiting(connections: Any) -> None:
    waiting = [connection for connection in connections if connection.due_s is not None]
    if waiting:
        min(waiting, key=lambda connection: connection.due_s).transport.abort()
