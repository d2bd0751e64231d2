"""A client's place at the Dask scheduler that is there just now, through which it hears of nodes."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from distributed import Client, Security
from distributed.comm.core import Comm

from cluster.errors import ClusterUnreachable, ProtocolError
from cluster.wire.orders import HANDLER
from cluster.wire.reports import TOPIC, NodeReport
from cluster.wire.scheduler import reach
from cluster.wire.vocabulary import from_wire

CLOSE_WITHIN_S = 5.0
Hear = Callable[[tuple[float, dict[str, Any]]], None]


class _OneSchedulersClient(Client):  # type: ignore[misc]
    """Ends with its scheduler. Dask's own would look for another one, and say what is wrong when it is closed meanwhile."""

    async def _reconnect(self) -> None:
        self.scheduler_comm = None


class SchedulerLine:
    """Made by `join`. `gone` returns when just that scheduler is gone, even if another one answers at its address since."""

    def __init__(self, client: Client, line: Comm, workers: tuple[str, ...]) -> None:
        self._client, self._line, self._workers = client, line, workers

    @classmethod
    async def join(
        cls, address: str, secured: Security, timeout_s: float, on_report: Hear, on_membership: Hear
    ) -> "SchedulerLine":
        """Connect, and hear every report and every change of membership. ClusterUnreachable if the scheduler does not answer
        in time."""
        async with AsyncExitStack() as joined:
            try:
                line = await reach(address, secured, "client", timeout_s)
                joined.callback(line.abort)
                client = _OneSchedulersClient(
                    address, asynchronous=True, timeout=timeout_s, set_as_default=False, security=secured
                )
                joined.push_async_callback(_close, client)
                async with asyncio.timeout(timeout_s):
                    await client
                    client.subscribe_topic(TOPIC, on_report)
                    client.subscribe_topic("all", on_membership)
                    identity = await client.scheduler.identity(n_workers=-1)  # scheduler_info is a cache
            except (OSError, TimeoutError) as error:
                why = str(error) or f"not within {timeout_s:g} s"
                raise ClusterUnreachable(f"no Dask scheduler answers at {address}: {why}") from error
            joined.pop_all()
        return cls(client, line, tuple(identity["workers"]))

    async def reports(self, timeout_s: float) -> tuple[NodeReport, ...]:
        """What the nodes say that had joined before us; those that do not answer in time are left out."""
        asked = (self._report(address, timeout_s) for address in self._workers)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return tuple(answer for answer in answers if isinstance(answer, NodeReport))

    async def gone(self) -> None:
        """Wait until the scheduler is gone: nobody speaks on this connection."""
        with suppress(OSError):
            await self._line.read()

    async def close(self) -> None:
        """Leave the scheduler, if it is still there."""
        self._line.abort()
        await _close(self._client)

    async def _report(self, address: str, timeout_s: float) -> NodeReport:
        async with asyncio.timeout(timeout_s):
            report = from_wire(await getattr(self._client.rpc(address), HANDLER)())
        if not isinstance(report, NodeReport):
            raise ProtocolError(f"the node at {address} answered with {type(report).__name__}")
        return report


async def _close(client: Client) -> None:
    """As well as it goes: nothing of it is used any more."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_WITHIN_S):
            await client.close()
