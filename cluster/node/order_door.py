"""Where a node takes orders: on the agent's own port, so that it can be reached while no scheduler is there.

One order after the other on a connection, each answered before the next. Whoever closes it gives the order up.
"""

import asyncio
import hmac
import secrets
import ssl
from collections.abc import Awaitable, Callable

from cluster.errors import ProtocolError
from cluster.wire.codec import frame, read_frame
from cluster.wire.door import Door
from cluster.wire.hello import Hello
from cluster.wire.orders import HANDLER

IDLE_S = 300.0
"""A connection on which no order comes for so long is closed; callers keep none for that long."""
CarryOut = Callable[[object], Awaitable[object]]


class OrderDoor:
    """Lets in who knows `secret`, which is made anew at every start, and answers with what `carry_out` makes of each
    order; it is cancelled when the caller leaves. Use from one event loop."""

    def __init__(self, carry_out: CarryOut, tls: ssl.SSLContext | None = None) -> None:
        self.secret = secrets.token_hex(16)
        self.port = 0
        self._carry_out = carry_out
        self._door = Door("orders", self._knows, self._talk, tls)
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.StreamWriter] = set()

    async def open(self, host: str) -> None:
        """Take orders at `port` from now on. OSError if nobody can listen there."""
        self._server = await asyncio.start_server(self._door, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Take none any more, and give up those that are being carried out: whoever calls is refused at once."""
        if self._server is not None:
            self._server.close()
        for writer in self._callers:
            writer.transport.abort()

    def _knows(self, hello: Hello) -> bool:
        return hello.group == HANDLER and hmac.compare_digest(hello.secret.encode(), self.secret.encode())

    async def _talk(self, _hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers.add(writer)
        try:
            order = await read_frame(reader)
            while order is not None:
                order = await self._answer(order, reader, writer)
        finally:
            self._callers.discard(writer)

    async def _answer(self, order: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        """Carry an order out; the one that comes next, None if the caller has left."""
        following = asyncio.ensure_future(read_frame(reader))
        working = asyncio.ensure_future(self._carry_out(order))
        try:
            await asyncio.wait({following, working}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                if following.result() is not None:
                    raise ProtocolError("an order came before the one before it was answered")
                return None
            writer.write(frame(working.result()))
            await writer.drain()
            await asyncio.wait({following}, timeout=IDLE_S)
            return following.result() if following.done() else None
        finally:
            for task in (working, following):
                task.cancel()
            await asyncio.gather(working, following, return_exceptions=True)
