"""A group as the front end sees it: one connection to its first stage, over which requests go and tokens come."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, Callable

from cluster.errors import NoToken, ProtocolError, Refused, StageFailed
from cluster.wire.codec import frame, read_frame
from cluster.wire.hello import Hello
from cluster.wire.phases import Phase
from cluster.wire.reports import StageFormed
from cluster.wire.requests import Cancel, Event, Failed, Rejected, Submit, Tokens
from schedules.facts import Placement

_log = logging.getLogger(__name__)


class Group:
    """A formed group. `lost` is set, with `cause`, when it can serve no more."""

    def __init__(self, name: str, placement: Placement, phases: tuple[Phase, ...]) -> None:
        self.name, self.placement, self.phases = name, placement, phases
        self.lost = asyncio.Event()
        self.cause = ""
        self._causes: list[str] = []
        self._watching: list[Callable[[], None]] = []
        self._streams: dict[str, asyncio.Queue[Event | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def connect(
        self, first: StageFormed, timeout_s: float, tls: ssl.SSLContext | None = None, owner: str = ""
    ) -> None:
        """Open the connection to the first stage; what another owner asked of it is over then. StageFailed if it does not
        answer."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, self._writer = await asyncio.open_connection(first.host, first.port, ssl=tls)
        except (OSError, TimeoutError) as error:
            raise StageFailed(f"the first stage of group {self.name} does not answer: {error}") from error
        self._writer.write(frame(Hello(self.name, first.secret, owner)))
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` once when the group is lost; others who watch are called too."""
        self._watching.append(on_lost)

    async def generate(self, submit: Submit) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come, the last with its finish. Leaving early cancels the request.

        StageFailed if the group is lost before the end, Refused if it will not run the request, NoToken if the model has
        none to give.
        """
        if self.lost.is_set():
            raise StageFailed(self.cause)
        stream = self._streams[submit.request] = asyncio.Queue()
        self._writer.write(frame(submit))
        finished = False
        try:
            while True:
                event = await stream.get()
                if event is None:
                    raise StageFailed(self.cause)
                if isinstance(event, Rejected):
                    finished = True
                    raise Refused(event.message)
                if isinstance(event, Failed):
                    finished = True
                    raise NoToken(event.message)
                finished = event.finish is not None
                yield event
                if finished:
                    return
        finally:
            del self._streams[submit.request]
            if not finished and not self.lost.is_set():
                self._writer.write(frame(Cancel(submit.request)))

    def lose(self, cause: str) -> None:
        """The group can serve no more; every stream ends with StageFailed."""
        if self.lost.is_set():
            return
        self.cause = cause
        self.lost.set()
        for stream in self._streams.values():
            stream.put_nowait(None)
        for on_lost in self._watching:
            on_lost()

    def explain(self, cause: str) -> None:
        """A node says why the group ends: its own stage's fault, or that of a neighbour, as it looks from there."""
        self.lose(cause)
        self._causes.append(cause)
        self.cause = "; ".join(self._causes)

    async def close(self) -> None:
        """Give up the connection."""
        self.lose("the group was dissolved")
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._writer.transport.abort()  # a stage that is stopped takes nothing, however long one waits
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while (event := await read_frame(reader)) is not None:
                stream = self._streams.get(event.request)
                if stream is not None:
                    stream.put_nowait(event)
        except (ProtocolError, OSError) as error:
            self.lose(f"the connection to the first stage broke: {error}")
        self.lose("the first stage is gone")
