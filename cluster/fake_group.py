"""A group of the cluster in memory: it gives every request the tokens that are its own wherever it runs."""

import asyncio
import zlib
from array import array
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field

from cluster.errors import Refused, StageFailed
from cluster.wire.phases import Phase
from cluster.wire.requests import Submit, TokenLogprobs, Tokens
from schedules.facts import Placement

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


@dataclass(eq=False)
class Stream:
    """What a request is to be given, and how much of it came: numbers of tokens, or what it ends by."""

    rest: tuple[int, ...]
    ends: bool
    logprobs: int | None
    came: "asyncio.Queue[int | Exception]" = field(default_factory=asyncio.Queue)

    def take(self, request: str, count: int) -> Tokens:
        """The next so many of its tokens."""
        tokens, self.rest = self.rest[:count], self.rest[count:]
        finish = None if self.rest else "stop" if self.ends else "length"
        return Tokens(request, tokens, finish, self._logprobs(tokens))

    def _logprobs(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        if self.logprobs is None:
            return ()
        top = range(self.logprobs)
        return tuple(
            TokenLogprobs(_LOGPROB, tuple((token + place, _LOGPROB - place) for place in top)) for token in tokens
        )


class FakeGroup:
    """See `cluster.contract.FormedGroup`. `run` gives a request and the number of its tokens to whoever plays the group,
    `cancel` takes it away again."""

    def __init__(
        self,
        name: str,
        placement: Placement,
        vocabulary: int,
        run: Callable[[str, Submit, int], None],
        cancel: Callable[[str], None],
    ) -> None:
        self.name, self.placement = name, placement
        self.phases: tuple[Phase, ...] = ()
        self.lost = asyncio.Event()
        self.cause = ""
        self._vocabulary, self._run, self._cancel = vocabulary, run, cancel
        self._watching: list[Callable[[], None]] = []
        self._streams: dict[str, Stream] = {}

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` once when the group is lost; others who watch are called too."""
        self._watching.append(on_lost)

    async def generate(self, submit: Submit) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come; see the contract."""
        if self.lost.is_set():
            raise StageFailed(self.cause)
        stream = self._streams[submit.request] = self._stream(submit)
        self._run(self.name, submit, len(stream.rest))
        try:
            while stream.rest:
                came = await stream.came.get()
                if isinstance(came, Exception):
                    raise came
                yield stream.take(submit.request, came)
        finally:
            del self._streams[submit.request]
            self._cancel(submit.request)

    def lose(self, cause: str) -> None:
        """The group can serve no more; every stream ends with StageFailed."""
        if self.lost.is_set():
            return
        self.cause = cause
        self.lost.set()
        for stream in self._streams.values():
            stream.came.put_nowait(StageFailed(cause))
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

    def _stream(self, submit: Submit) -> Stream:
        """What is left of the answer, of which some may be there already."""
        prompt, done = submit.tokens[: submit.prompt_tokens], len(submit.tokens) - submit.prompt_tokens
        whole = answer(
            self.placement.model, prompt, done + submit.max_tokens, self._vocabulary, submit.stop_tokens,
            submit.min_tokens,
        )  # fmt: skip
        return Stream(whole[done:], whole[-1] in submit.stop_tokens, submit.sampling.logprobs)
