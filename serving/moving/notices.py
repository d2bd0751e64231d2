"""What a flow service is told while it listens: moves to be carried out, and what has happened.

Of several that listen the one that came last is told; the others stand by, and hear only that the front end is alive.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from serving.waiting import happens

ALIVE_S = 2.0
LISTENERS = 4
QUEUED, LATE = 1024, 256
_KEPT = ("move", "cold_start")
"""What the next one is told if nobody listens."""


class Listener:
    """One that listens. A queue that is full ends it."""

    def __init__(self) -> None:
        self.queue: deque[dict[str, Any]] = deque()
        self.news, self.over = asyncio.Event(), False

    def tell(self, notice: str, **more: Any) -> None:
        """It hears this in turn."""
        if len(self.queue) >= QUEUED:
            self.end()
            return
        self.queue.append({"notice": notice, **more})
        self.news.set()

    def end(self) -> None:
        """It hears nothing more."""
        self.over = True
        self.news.set()


class Notices:
    """See the module. Use from one event loop."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._unheard: deque[dict[str, Any]] = deque(maxlen=LATE)
        self._on_left: Callable[[Listener], None] = lambda _listener: None
        self._closed = False

    def on_left(self, hears: Callable[[Listener], None]) -> None:
        """Who hears of each listener that goes."""
        self._on_left = hears

    def first(self) -> Listener | None:
        """The one that is told, if anybody listens."""
        return next((each for each in reversed(self._listeners) if not each.over), None)

    def tell(self, notice: str, **more: Any) -> None:
        """Tell whoever listens; some of it can wait for the next who does."""
        listener = self.first()
        if listener is not None:
            listener.tell(notice, **more)
        elif notice in _KEPT:
            self._unheard.append({"notice": notice, **more})

    async def listen(self) -> AsyncGenerator[bytes]:
        """All that is told, a JSON object a line, from now on; first what was told to nobody. It ends when it is slow, when
        too many have come since, or when the front end does."""
        listener = Listener()
        listener.over = self._closed
        listener.queue.extend({**each, "late": True} for each in self._unheard)
        self._unheard.clear()
        self._listeners.append(listener)
        if len(self._listeners) > LISTENERS:
            self._listeners[0].end()
        try:
            yield _line({"notice": "alive"})
            while not listener.over:
                while listener.queue and not listener.over:
                    line = _line(listener.queue[0])
                    yield line
                    listener.queue.popleft()
                if listener.over:
                    return
                listener.news.clear()
                if not await happens(listener.news, ALIVE_S):
                    yield _line({"notice": "alive"})
        finally:
            self._leave(listener)

    def close(self) -> None:
        """Everyone is let go, and nobody comes any more."""
        self._closed = True
        for listener in self._listeners:
            listener.end()

    def _leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)
        listener.over = True
        for each in listener.queue:
            if each["notice"] in _KEPT:
                self._unheard.append(each)
        self._on_left(listener)


def _line(notice: dict[str, Any]) -> bytes:
    return json.dumps(notice, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
