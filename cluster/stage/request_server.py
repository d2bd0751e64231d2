"""The door of a stage process, on a thread beside the decode loop: the front end's long-lived connection at the first stage,
and at each those who come for KV cache.
"""

import asyncio
import hmac
import ssl
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

from cluster.errors import ProtocolError
from cluster.wire.codec import frame, read_frame
from cluster.wire.door import Door
from cluster.wire.hello import Hello
from cluster.wire.requests import (
    AskPlace,
    Cancel,
    Caught,
    Event,
    Follow,
    GoOn,
    More,
    Placed,
    Submit,
    Tokens,
    Words,
    Yield,
)

Command = Submit | Cancel | Follow | More | GoOn | Yield | AskPlace | Words
Accept = Callable[[Command], None]
TalkOfKv = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RequestServer:
    """Listens from the start, takes requests once `serve` says for which group and to whom they go.

    A request belongs to the connection it came on: its tokens go back there, and it is cancelled when that closes. Who does
    not say the group's Hello at once is cut off, see Door; and so is whoever is there when somebody comes who says that the
    group is another's now: the dead close no connection when it was their cable that was cut. Who comes for KV cache is none
    of these, and asks for nothing else.
    """

    def __init__(self, host: str) -> None:
        """OSError if nobody can listen there."""
        self._door = Door("requests", self._knows, self._talk)
        self._loop = asyncio.new_event_loop()
        self._owners: dict[str, asyncio.StreamWriter] = {}
        self._asking: defaultdict[str, list[asyncio.StreamWriter]] = defaultdict(list)
        self._callers: dict[asyncio.StreamWriter, str] = {}
        self._hello: Hello | None = None
        self._accept: Accept | None = None
        self._talk_of_kv: TalkOfKv | None = None
        self._count: Callable[[int], None] = lambda _callers: None
        port: Future[int] = Future()
        threading.Thread(target=self._run, args=(host, port), name="requests", daemon=True).start()
        self.port: int = port.result()

    def serve(
        self,
        hello: Hello,
        accept: Accept | None,
        tls: ssl.SSLContext | None = None,
        count: Callable[[int], None] = lambda _callers: None,
        talk_of_kv: TalkOfKv | None = None,
    ) -> None:
        """From now on let in who says `hello`, over `tls` if there is any, and hand over what they send; `count` hears how
        many are there; those who come for KV cache are left to `talk_of_kv`. All are called on the server's thread. With None
        for `accept` nobody else is let in. Thread-safe."""
        self._door.tls, self._count, self._talk_of_kv = tls, count, talk_of_kv
        self._accept, self._hello = accept, hello  # in this order: whoever is let in is heard

    def emit(self, events: Sequence[Event]) -> None:
        """Send each event to whoever submitted its request. Thread-safe; nothing happens if they have left."""
        self._loop.call_soon_threadsafe(self._deliver_all, events)

    def _run(self, host: str, port: Future[int]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            server = self._loop.run_until_complete(asyncio.start_server(self._door, host, 0))
        except OSError as error:
            port.set_exception(error)
            return
        port.set_result(server.sockets[0].getsockname()[1])
        self._loop.run_forever()

    async def _talk(self, hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if hello.kv and self._talk_of_kv is not None:
            await self._talk_of_kv(reader, writer)
            return
        accept = self._accept
        if hello.kv or accept is None:
            raise ProtocolError("it came to a stage that has nothing for it")
        for other, owner in self._callers.items():
            if owner != hello.owner:
                other.transport.abort()
        self._callers[writer] = hello.owner
        self._count(len(self._callers))
        try:
            while (message := await read_frame(reader)) is not None:
                self._take(message, writer, accept)
        finally:
            del self._callers[writer]
            self._count(len(self._callers))
            for request in [name for name, owner in self._owners.items() if owner is writer]:
                del self._owners[request]
                accept(Cancel(request))

    def _knows(self, hello: Hello) -> bool:
        known = self._hello
        if known is None or hello.group != known.group:
            return False
        return hmac.compare_digest(hello.secret.encode(), known.secret.encode())

    def _take(self, message: object, writer: asyncio.StreamWriter, accept: Accept) -> None:
        if isinstance(message, Submit | Follow):
            request = message.request if isinstance(message, Submit) else message.submit.request
            if request in self._owners:
                raise ProtocolError(f"request {request} came twice")
            self._owners[request] = writer
        elif isinstance(message, Cancel):
            self._owners.pop(message.request, None)
        elif isinstance(message, AskPlace):
            self._asking[message.request].append(writer)
        elif not isinstance(message, More | GoOn | Yield | Words):
            raise ProtocolError(f"{type(message).__name__} is not for a stage")
        accept(message)

    def _whose(self, event: Event) -> asyncio.StreamWriter | None:
        """Who is to hear of it; what is over is nobody's any more."""
        if isinstance(event, Placed):
            asking = self._asking[event.request]
            writer = asking.pop(0) if asking else None
            if not asking:
                del self._asking[event.request]
            return writer
        if isinstance(event, Caught) or (isinstance(event, Tokens) and event.finish is None):
            return self._owners.get(event.request)
        return self._owners.pop(event.request, None)

    def _deliver_all(self, events: Sequence[Event]) -> None:
        """Each connection's in one piece: a step of many requests is one call of the kernel, not one for each."""
        frames: defaultdict[asyncio.StreamWriter, list[bytes]] = defaultdict(list)
        for event in events:
            writer = self._whose(event)
            if writer is not None:
                frames[writer].append(frame(event))
        for writer, pieces in frames.items():
            if not writer.is_closing():
                writer.write(b"".join(pieces))
