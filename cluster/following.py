"""A request that another group generates, as the group that shall go on with it takes it in."""

from collections.abc import AsyncGenerator, Callable, Sequence

from cluster.errors import Refused
from cluster.kv_copy import Copied
from cluster.stream import Stream
from cluster.wire.requests import Caught, Follow, GoOn, More, Submit, Tokens


class Following:
    """See `cluster.contract.Following`. `drop` has the stages forget what was copied, where it is not used."""

    def __init__(self, stream: Stream, submit: Submit, copied: Copied, drop: Callable[[], None]) -> None:
        self.copied_tokens, self.copied_bytes = copied.tokens, copied.size_bytes
        self._stream, self._drop = stream, drop
        self._known, self._caught = len(submit.tokens), 0
        self._going_on = self._closed = False
        stream.say(Follow(submit, copied.tokens))

    async def caught_up(self) -> int:
        """Wait until all tokens are taken in that it was told of so far; how many those are, prompt and all."""
        known = self._known
        while self._caught < known:
            event = await self._stream.next()
            if event is None:
                raise Refused(f"request {self._stream.request} was given up here")
            if isinstance(event, Caught):
                self._caught = event.tokens
        return known

    def more(self, tokens: Sequence[int]) -> None:
        """The request has these too."""
        if tokens:
            self._known += len(tokens)
            self._stream.say(More(self._stream.request, tuple(tokens)))

    async def go_on(self, tokens: Sequence[int] = ()) -> AsyncGenerator[Tokens]:
        """These are the last that it got elsewhere, which is said when the first that follows is asked for. Leaving early
        cancels the request."""
        assert not self._closed, "it was given up"
        self._going_on = True
        try:
            self._stream.say(GoOn(self._stream.request, tuple(tokens)))
            while (event := await self._stream.next_tokens()) is not None:
                yield event
                if event.finish is not None:
                    return
        finally:
            self._stream.leave()

    async def close(self) -> None:
        """Give it up, unless it was gone on with. Twice is once."""
        if self._closed or self._going_on:
            return
        self._closed = True
        self._stream.leave()
        if self.copied_tokens:
            self._drop()
