"""Clients that leave before they have their answer."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class ClosedStream(StreamingResponse):
    """A stream whose source is closed, and `over` called, however the response ends.

    Starlette stops iterating when the client leaves; the generator behind would live on until it is collected.
    """

    def __init__(
        self,
        source: AsyncGenerator[bytes],
        media_type: str,
        headers: dict[str, str],
        over: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(source, media_type=media_type, headers=headers)
        self._source, self._over = source, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()
            self._over()


async def unless_left(work: Coroutine[Any, Any, Any], request: Request) -> Any:
    """The result of `work`, or None if the client leaves first; the work is cancelled then."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
