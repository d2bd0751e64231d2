"""A group of the cluster in memory: it gives every request the tokens that are its own wherever it runs."""

import asyncio
import struct
import zlib
from array import array
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from cluster.contract import KvOf
from cluster.errors import Refused, StageFailed
from cluster.wire.phases import Phase
from cluster.wire.requests import Embedded, Submit, TokenLogprobs, Tokens
from schedules.facts import Placement
from schedules.world.groups import Ask
from schedules.world.happenings import CaughtUp

_WIDTH = 8
_LOGPROB = -0.5
"""Of every token that is chosen; each that is less likely has one less."""


def answer(
    model: str,
    prompt: Sequence[int],
    count: int,
    vocabulary: int,
    stop_tokens: Collection[int] = (),
    min_tokens: int = 0,
) -> tuple[int, ...]:
    """What the model says after the prompt: up to `count` tokens below `vocabulary`, the last of which may be a stop token,
    but none before `min_tokens`. Each depends on the prompt and its own place alone."""
    seed = zlib.crc32(array("q", prompt).tobytes(), zlib.crc32(model.encode()))
    found: list[int] = []
    while len(found) < count:
        token = zlib.crc32(len(found).to_bytes(8, "little"), seed) % vocabulary
        while token in stop_tokens and len(found) < min_tokens:
            token = (token + 1) % vocabulary
        found.append(token)
        if token in stop_tokens:
            break
    return tuple(found)


def vector(model: str, prompt: Sequence[int], mode: str) -> bytes:
    """The prompt's vector, as it goes over the wire: a few numbers from 1 to 2."""
    seed = zlib.crc32(array("q", prompt).tobytes(), zlib.crc32(f"{model} {mode}".encode()))
    numbers = (1 + zlib.crc32(bytes([place]), seed) / 2**32 for place in range(_WIDTH))
    return struct.pack(f"<{_WIDTH}f", *numbers)


@dataclass(eq=False)
class Stream:
    """What a request is to be given, and how much of it came: numbers of tokens, what it ends by, or None if it goes on
    elsewhere. One that is to have a `vector` is given that in place of one token."""

    rest: tuple[int, ...]
    ends: bool
    logprobs: int | None
    vector: bytes = b""
    came: "asyncio.Queue[int | Exception | None]" = field(default_factory=asyncio.Queue)

    def take(self, request: str, count: int) -> Tokens:
        """The next so many of its tokens."""
        tokens, self.rest = self.rest[:count], self.rest[count:]
        if self.vector:
            return Embedded(request, (), "stop", vector=self.vector)
        finish = None if self.rest else "stop" if self.ends else "length"
        return Tokens(request, tokens, finish, self._logprobs(tokens))

    def _logprobs(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        if self.logprobs is None:
            return ()
        top = range(self.logprobs)
        return tuple(
            TokenLogprobs(_LOGPROB, tuple((token + place, _LOGPROB - place) for place in top)) for token in tokens
        )


class Plays(Protocol):
    """Whoever plays the groups: what it is told of requests, which have names of their own at each group."""

    def run(self, group: str, ask: Ask) -> None:
        """Give it its tokens."""
        ...

    def follow(self, group: str, ask: Ask, copy_of: str) -> None:
        """Take it in, with the KV cache of `copy_of` if that is not empty."""
        ...

    def more(self, request: str, tokens: int) -> None:
        """It has so many more tokens."""
        ...

    def go_on(self, request: str, tokens: int) -> None:
        """The same, and give it what follows."""
        ...

    def yield_up(self, request: str) -> None:
        """Give it nothing after its step."""
        ...

    def cancel(self, request: str) -> None:
        """Nobody wants it any more."""
        ...


class FakeGroup:
    """See `cluster.contract.FormedGroup`."""

    def __init__(self, name: str, placement: Placement, vocabulary: int, plays: Plays) -> None:
        self.name, self.placement = name, placement
        self.phases: tuple[Phase, ...] = ()
        self.lost = asyncio.Event()
        self.cause = ""
        self._vocabulary, self._plays = vocabulary, plays
        self._watching: list[Callable[[], None]] = []
        self._streams: dict[str, Stream] = {}
        self._followers: dict[str, FakeFollowing] = {}

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` once when the group is lost; others who watch are called too."""
        self._watching.append(on_lost)

    async def generate(self, submit: Submit) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come; see the contract."""
        if self.lost.is_set():
            raise StageFailed(self.cause)
        stream = self.stream(submit)
        self._plays.run(self.name, _ask(submit, stream))
        async with aclosing(self.tokens(submit.request, stream)) as tokens:
            async for each in tokens:
                yield each

    def yield_up(self, request: str) -> None:
        """Have the request end after the step that it is in; see the contract."""
        self._plays.yield_up(request)

    async def follow(self, submit: Submit, kv_of: KvOf | None, timeout_s: float) -> "FakeFollowing":
        """Begin to take in a request that another group generates; see the contract. What is copied counts as copied once it
        has caught up for the first time."""
        if self.lost.is_set():
            raise StageFailed(self.cause)
        stream = self.stream(submit)
        following = self._followers[submit.request] = FakeFollowing(self, self._plays, submit, stream)
        self._plays.follow(self.name, _ask(submit, stream), kv_of.request if kv_of is not None else "")
        return following

    def lose(self, cause: str) -> None:
        """The group can serve no more; every stream ends with StageFailed."""
        if self.lost.is_set():
            return
        self.cause = cause
        self.lost.set()
        for stream in self._streams.values():
            stream.came.put_nowait(StageFailed(cause))
        for following in self._followers.values():
            following.fail(StageFailed(cause))
        for on_lost in self._watching:
            on_lost()

    async def close(self) -> None:
        """Give it up."""
        self.lose("the group was dissolved")

    # ---- for whoever plays it

    def progressed(self, request: str, tokens: int) -> None:
        """So many more of the request's tokens have come."""
        if request in self._streams:
            self._streams[request].came.put_nowait(tokens)

    def refused(self, request: str, reason: str) -> None:
        """It does not run the request."""
        if request in self._streams:
            self._streams[request].came.put_nowait(Refused(reason))
        elif request in self._followers:
            self._followers[request].fail(Refused(reason))

    def caught_up(self, told: CaughtUp) -> None:
        """Who follows has."""
        if told.request in self._followers:
            self._followers[told.request].caught(told)

    def yielded(self, request: str) -> None:
        """The request was given up, and all its tokens were told."""
        if request in self._streams:
            self._streams[request].came.put_nowait(None)

    # ---- for its streams

    def stream(self, submit: Submit) -> Stream:
        """What is left of the answer, of which some may be there already."""
        if submit.pooling is not None:
            return Stream((0,), False, None, vector(self.placement.model, submit.tokens, submit.pooling))
        prompt, done = submit.tokens[: submit.prompt_tokens], len(submit.tokens) - submit.prompt_tokens
        whole = answer(
            self.placement.model, prompt, done + submit.max_tokens, self._vocabulary, submit.stop_tokens,
            submit.min_tokens,
        )  # fmt: skip
        return Stream(whole[done:], whole[-1] in submit.stop_tokens, submit.sampling.logprobs)

    async def tokens(self, request: str, stream: Stream) -> AsyncGenerator[Tokens]:
        """The rest of it, as it comes."""
        self._streams[request] = stream
        try:
            while stream.rest:
                came = await stream.came.get()
                if came is None:
                    return
                if isinstance(came, Exception):
                    raise came
                yield stream.take(request, came)
        finally:
            del self._streams[request]
            self._plays.cancel(request)

    def forget(self, request: str) -> None:
        """It follows no more."""
        self._followers.pop(request, None)


class FakeFollowing:
    """See `cluster.contract.Following`."""

    def __init__(self, group: FakeGroup, plays: Plays, submit: Submit, stream: Stream) -> None:
        self.copied_tokens = self.copied_bytes = 0
        self._group, self._plays, self._request, self._stream = group, plays, submit.request, stream
        self._known, self._taken = len(submit.tokens), 0
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._going_on = False

    async def caught_up(self) -> int:
        """How many tokens there are, when all of them are taken in; see the contract."""
        known = self._known
        while self._error is None and self._taken < known:
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        return known

    def more(self, tokens: Sequence[int]) -> None:
        """The request has these too."""
        self._add(tokens)
        self._plays.more(self._request, len(tokens))

    async def go_on(self, tokens: Sequence[int] = ()) -> AsyncGenerator[Tokens]:
        """What follows on these; see the contract."""
        self._going_on = True
        self._add(tokens)
        self._group.forget(self._request)
        if self._error is not None:
            raise self._error
        self._plays.go_on(self._request, len(tokens))
        async with aclosing(self._group.tokens(self._request, self._stream)) as following:
            async for each in following:
                yield each

    async def close(self) -> None:
        """Give it up, unless it was gone on with; see the contract."""
        if not self._going_on:
            self._group.forget(self._request)
            self._plays.cancel(self._request)

    # ---- for its group

    def caught(self, told: CaughtUp) -> None:
        """It has taken in so many tokens."""
        self._taken, self.copied_tokens, self.copied_bytes = told.tokens, told.copied_tokens, told.copied_bytes
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """It will not go on here."""
        self._error = error
        self._changed.set()

    def _add(self, tokens: Sequence[int]) -> None:
        self._known += len(tokens)
        self._stream.rest = self._stream.rest[len(tokens) :]


def _ask(submit: Submit, stream: Stream) -> Ask:
    return Ask(submit.request, len(submit.tokens), submit.max_tokens, len(stream.rest))
