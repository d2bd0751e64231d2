"""Signs of life in a stream that has nothing to say yet: proxies cut one that is silent for long."""

import asyncio
from collections.abc import AsyncGenerator

from serving.answering.deltas import Delta

HEARTBEAT_S = 0.8
"""So that there is one at least every second, however late a busy loop is."""


async def with_heartbeats(deltas: AsyncGenerator[Delta], period_s: float) -> AsyncGenerator[Delta | None]:
    """The deltas, and a None whenever none has come for so long."""
    waiting: asyncio.Task[Delta] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(deltas))  # type: ignore[arg-type]
            done, _ = await asyncio.wait({waiting}, timeout=period_s)
            if not done:
                yield None
                continue
            finished, waiting = waiting, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await deltas.aclose()
