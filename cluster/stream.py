"""One request at the first stage of a group: what is said of it there, and what is told of it."""

import asyncio
from collections.abc import Callable

from cluster.errors import NoToken, Refused, StageFailed
from cluster.wire.requests import Cancel, Caught, Event, Failed, Rejected, Tokens, Yielded


class Stream:
    """`say` speaks to the first stage, `forget` has nothing more told. Use from one event loop, and leave it in the end."""

    def __init__(self, request: str, say: Callable[[object], None], forget: Callable[[], None]) -> None:
        self.request = request
        self._say, self._forget = say, forget
        self._told: asyncio.Queue[Event] = asyncio.Queue()
        self._cause: str | None = None
        self._news = asyncio.Event()
        self._begun = self._over = self._left = False

    def tell(self, event: Event) -> None:
        """The first stage says so."""
        self._told.put_nowait(event)
        self._news.set()

    def lose(self, cause: str) -> None:
        """The group is lost: what was told before is heard yet."""
        self._cause = cause
        self._news.set()

    def say(self, message: object) -> None:
        """Say it to the first stage, if there is one."""
        self._begun = True
        if self._cause is None and not self._left:
            self._say(message)

    async def next(self) -> Tokens | Caught | None:
        """What is told next; None if the request was yielded up, as was wanted. StageFailed if the group is lost, Refused if
        it will not run the request, NoToken if the model has none to give."""
        while self._told.empty():
            if self._cause is not None:
                raise StageFailed(self._cause)
            self._news.clear()
            await self._news.wait()
        event = self._told.get_nowait()
        self._over = not isinstance(event, Caught | Tokens) or (isinstance(event, Tokens) and event.finish is not None)
        match event:
            case Rejected():
                raise Refused(event.message)
            case Failed():
                raise NoToken(event.message)
            case Tokens() | Caught():
                return event
            case Yielded():
                return None
        raise StageFailed(f"the first stage tells {type(event).__name__} of request {self.request}")

    async def next_tokens(self) -> Tokens | None:
        """The next that are tokens, see `next`."""
        while isinstance(event := await self.next(), Caught):
            pass
        return event

    def leave(self) -> None:
        """Nobody hears any more; what has begun and is not over is cancelled. Twice is once."""
        if self._left:
            return
        if self._begun and not self._over:
            self.say(Cancel(self.request))
        self._left = True
        self._forget()
