"""A group as the front end sees it: one connection to its first stage, over which requests go and tokens come."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from cluster.contract import KvOf
from cluster.errors import ProtocolError, StageFailed
from cluster.following import Following
from cluster.kv_copy import Copied, Doors
from cluster.stream import Stream
from cluster.tasks import Tasks
from cluster.wire.codec import frame, read_frame
from cluster.wire.hello import Hello
from cluster.wire.phases import Phase
from cluster.wire.reports import StageFormed
from cluster.wire.requests import MOST_WORDS, AskPlace, Follow, Placed, Submit, Tokens, Words, Yield
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
        self._streams: dict[str, Stream] = {}
        self._places: dict[str, asyncio.Future[Placed]] = {}
        self._told_words: list[str] = []
        self._tasks = Tasks()
        self._reading: asyncio.Task[None] | None = None

    async def connect(
        self, doors: Sequence[StageFormed], timeout_s: float, tls: ssl.SSLContext | None = None, owner: str = ""
    ) -> None:
        """Open the connection to the first of its stages, which take callers at `doors`; what another owner asked of it is
        over then. StageFailed if it does not answer."""
        first = doors[0]
        try:
            async with asyncio.timeout(timeout_s):
                reader, self._writer = await asyncio.open_connection(first.host, first.port, ssl=tls)
        except (OSError, TimeoutError) as error:
            raise StageFailed(f"the first stage of group {self.name} does not answer: {error}") from error
        self.doors = Doors(self.placement, doors, tls)
        self._writer.write(frame(Hello(self.name, first.secret, owner)))
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` once when the group is lost; others who watch are called too."""
        self._watching.append(on_lost)

    async def generate(self, submit: Submit) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come, the last with its finish, unless it is yielded up. Leaving early cancels the
        request.

        StageFailed if the group is lost before the end, Refused if it will not run the request, NoToken if the model has
        none to give.
        """
        stream = self._open(submit.request)
        try:
            stream.say(submit)
            while (tokens := await stream.next_tokens()) is not None:
                yield tokens
                if tokens.finish is not None:
                    return
        finally:
            stream.leave()

    def yield_up(self, request: str) -> None:
        """Have the request end after the step that it is in: its stream ends then, with all its tokens and no finish. What is
        over, or unknown, is so already."""
        if request in self._streams:
            self._streams[request].say(Yield(request))

    async def follow(self, submit: Submit, kv_of: KvOf | None, timeout_s: float) -> Following:
        """Begin to take in a request that another group generates, with the tokens that `submit` has. With `kv_of` its KV
        cache is copied from there, which takes no longer than half of `timeout_s`: what cannot be is computed anew.
        StageFailed if the group is lost."""
        stream = self._open(submit.request)
        try:
            copied = await self._copy(submit, kv_of, timeout_s / 2) if kv_of is not None else Copied()
            if self.lost.is_set():
                raise StageFailed(self.cause)
        except BaseException:
            stream.leave()
            raise
        return Following(stream, submit, copied, lambda: self._drop(submit.request))

    async def place(self, request: str) -> Placed:
        """By what number the stages know a request of this group, and of how many of its tokens they have the KV cache. The
        caller bounds the wait."""
        if self.lost.is_set() or request not in self._streams:
            return Placed(request, None)
        place = self._places.setdefault(request, asyncio.get_running_loop().create_future())
        self._streams[request].say(AskPlace(request))
        return await asyncio.shield(place)

    def lose(self, cause: str) -> None:
        """The group can serve no more; every stream ends with StageFailed."""
        if self.lost.is_set():
            return
        self.cause = cause
        self.lost.set()
        for request, stream in self._streams.items():
            stream.lose(cause)
            self._tell_place(Placed(request, None))
        for on_lost in self._watching:
            on_lost()

    def explain(self, cause: str) -> None:
        """A node says why the group ends: its own stage's fault, or that of a neighbour, as it looks from there."""
        self.lose(cause)
        self._causes.append(cause)
        self.cause = "; ".join(self._causes)
        for stream in self._streams.values():
            stream.lose(self.cause)

    async def close(self) -> None:
        """Give up the connection."""
        self.lose("the group was dissolved")
        await self._tasks.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._writer.transport.abort()  # a stage that is stopped takes nothing, however long one waits
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _open(self, request: str) -> Stream:
        if self.lost.is_set():
            raise StageFailed(self.cause)
        stream = Stream(request, self._say, lambda: self._forget(request))
        self._streams[request] = stream
        return stream

    def _say(self, message: object) -> None:
        """Say it to the first stage: of words that it was told before the digest alone."""
        submit = message.submit if isinstance(message, Follow) else message
        if isinstance(submit, Submit) and submit.grammar is not None and isinstance(submit.grammar.words, Words):
            digest = self._tell_words(submit.grammar.words)
            submit = replace(submit, grammar=replace(submit.grammar, words=digest))
            message = replace(message, submit=submit) if isinstance(message, Follow) else submit
        self._writer.write(frame(message))

    def _tell_words(self, words: Words) -> str:
        if words.digest not in self._told_words:
            self._writer.write(frame(words))
            self._told_words = [*self._told_words[1 - MOST_WORDS :], words.digest]
        return words.digest

    def _forget(self, request: str) -> None:
        del self._streams[request]
        self._tell_place(Placed(request, None))

    async def _copy(self, submit: Submit, kv_of: KvOf, timeout_s: float) -> Copied:
        """Have the KV cache of the request copied from where it runs into the stages here. What fails leaves nothing."""
        source, until_s = kv_of.group, time.monotonic() + timeout_s
        if not isinstance(source, Group):
            return Copied()
        try:
            async with asyncio.timeout(timeout_s):
                place = await source.place(kv_of.request)
        except TimeoutError:
            return Copied()
        tokens = min(place.held_tokens, len(submit.tokens) - 1)
        if place.slot is None or tokens < 1:
            return Copied()
        try:
            sources = source.doors.sources(place.slot)
            size_bytes = await self.doors.pull(submit.request, tokens, sources, until_s - time.monotonic())
        except StageFailed as error:
            _log.warning("the KV cache of request %s is computed anew: %s", submit.request, error)
            self._drop(submit.request)
            return Copied()
        except BaseException:
            self._drop(submit.request)
            raise
        return Copied(tokens, size_bytes)

    def _drop(self, request: str) -> None:
        """Have the stages forget what was copied for the request, meanwhile."""
        if not self.lost.is_set():
            self._tasks.spawn(self.doors.drop(request), "drop a KV cache")

    def _tell_place(self, placed: Placed) -> None:
        place = self._places.pop(placed.request, None)
        if place is not None and not place.done():
            place.set_result(placed)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while (event := await read_frame(reader)) is not None:
                if isinstance(event, Placed):
                    self._tell_place(event)
                elif event.request in self._streams:
                    self._streams[event.request].tell(event)
        except (ProtocolError, OSError) as error:
            self.lose(f"the connection to the first stage broke: {error}")
        self.lose("the first stage is gone")
