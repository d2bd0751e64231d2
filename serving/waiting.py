"""Waits that have an end."""

import asyncio


async def happens(awaited: asyncio.Event, within_s: float) -> bool:
    """Whether it does within the time."""
    try:
        async with asyncio.timeout(within_s):
            await awaited.wait()
    except TimeoutError:
        return False
    return True
