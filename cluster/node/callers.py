"""Work that is done for a caller, as long as the caller is there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")
LOOK_EVERY_S = 0.2
"""Dask notes that a connection was closed, and tells nobody: it is looked at while work is under way."""


class CallerGone(Exception):
    """The caller closed its connection before it had its answer."""


class Connection(Protocol):
    """What is asked of a caller's connection."""

    def closed(self) -> bool: ...


async def work_for(caller: Connection, work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work and return what it gives. CallerGone if the caller leaves meanwhile: then the work was cancelled, and has
    ended, or had just been done; what it raised otherwise is raised."""
    doing = asyncio.ensure_future(work)
    try:
        while not doing.done() and not caller.closed():
            await asyncio.wait({doing}, timeout=LOOK_EVERY_S)
    finally:
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
    if doing.cancelled():
        raise CallerGone
    result = doing.result()
    if caller.closed():
        raise CallerGone
    return result
