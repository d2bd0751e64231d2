"""Reaching the Dask scheduler, which may not be there yet, or not any more."""

import asyncio
import logging
from typing import Literal

from distributed import Security
from distributed.comm.core import Comm, connect

_log = logging.getLogger(__name__)
SHORTEST_TRY_S, LONGEST_TRY_S = 0.5, 4.0
AGAIN_AFTER_S = 0.2


async def reach(address: str, secured: Security, role: Literal["client", "worker"], timeout_s: float) -> Comm:
    """A connection to the scheduler. OSError or TimeoutError if it does not answer in time: also if it takes callers and
    says nothing to them."""
    async with asyncio.timeout(timeout_s):
        how = secured.get_connection_args(role)
        return await connect(address, timeout=timeout_s, deserialize=False, **how)


async def until_there(address: str, secured: Security, role: Literal["client", "worker"]) -> None:
    """Wait until a scheduler answers, however long that takes."""
    try_s, told = SHORTEST_TRY_S, ""
    while True:
        try:
            (await reach(address, secured, role, try_s)).abort()
            return
        except (OSError, TimeoutError) as error:
            if (why := str(error.__cause__ or error)) != told:
                _log.info("no scheduler at %s yet: %s", address, why)
                told = why
            await asyncio.sleep(AGAIN_AFTER_S)
            try_s = min(2 * try_s, LONGEST_TRY_S)
