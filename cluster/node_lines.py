"""Connections straight to nodes: orders go over them, and answers come, whether a scheduler is there or not."""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster.errors import NodeLost, ProtocolError, Refused, StageFailed
from cluster.wire.codec import frame, read_frame
from cluster.wire.hello import Hello
from cluster.wire.orders import HANDLER
from cluster.wire.reports import NotDone

_T = TypeVar("_T")
MOST_IDLE, IDLE_S = 256, 5.0
"""So many connections wait for their next order, none of them for longer."""


@dataclass(frozen=True)
class Place:
    """Where a node takes orders, and what it wants to hear first."""

    host: str
    port: int
    secret: str = field(repr=False)


@dataclass(frozen=True)
class _Line:
    place: Place
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used_s: float

    @property
    def open(self) -> bool:
        return not self.reader.at_eof() and not self.writer.is_closing()


class NodeLines:
    """Use from one event loop. A connection has one order at a time; one that is given up takes its order with it."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._idle: list[_Line] = []
        self._closed = False

    async def ask(self, place: Place, order: object) -> Any:
        """What the node answers. OSError at once if nobody is there, ProtocolError if it is no answer; the caller bounds
        the wait."""
        line = self._take(place) or await self._open(place)
        try:
            line.writer.write(frame(order))
            await line.writer.drain()
            answer = await read_frame(line.reader)
            if answer is None:
                raise ConnectionResetError("it closed the connection")
        except BaseException:
            line.writer.transport.abort()
            raise
        self._keep(line)
        return answer

    async def order(self, node: str, place: Place, order: object, answer: type[_T], timeout_s: float) -> _T:
        """Give an order and return its answer. What the node did not do is raised: Refused or StageFailed as it says,
        NodeLost if it does not answer in time or is gone."""
        what = type(order).__name__
        try:
            async with asyncio.timeout(timeout_s):
                result = await self.ask(place, order)
        except TimeoutError as error:
            raise NodeLost(f"node {node} did not answer {what} within {timeout_s:.0f} s", node) from error
        except OSError as error:
            raise NodeLost(f"node {node} is gone: {error}", node) from error
        if isinstance(result, NotDone):
            raise (Refused if result.refused else StageFailed)(result.message)
        if not isinstance(result, answer):
            raise ProtocolError(f"node {node} answered {what} with {type(result).__name__}")
        return result

    def tidy(self) -> None:
        """Give up connections that are not used any more, or cannot be."""
        old_s = time.monotonic() - IDLE_S
        for line in [line for line in self._idle if not line.open or line.used_s < old_s]:
            self._drop(line)

    def close(self) -> None:
        """Give up all connections, also those that are at an order, as soon as they are done with it."""
        self._closed = True
        for line in self._idle:
            line.writer.transport.abort()
        self._idle.clear()

    async def _open(self, place: Place) -> _Line:
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=self._tls)
        writer.write(frame(Hello(HANDLER, place.secret)))
        return _Line(place, reader, writer, time.monotonic())

    def _take(self, place: Place) -> _Line | None:
        """The one that was used last, if any still can be."""
        self.tidy()
        for line in reversed(self._idle):
            if line.place == place:
                self._idle.remove(line)
                return line
        return None

    def _keep(self, line: _Line) -> None:
        if self._closed:
            line.writer.transport.abort()
            return
        self._idle.append(_Line(line.place, line.reader, line.writer, time.monotonic()))
        if len(self._idle) > MOST_IDLE:
            self._drop(self._idle[0])

    def _drop(self, line: _Line) -> None:
        self._idle.remove(line)
        line.writer.transport.abort()
