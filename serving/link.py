"""The front end's client of the cluster: made in the background, and kept for as long as the front end lives."""

import asyncio
import logging
from collections.abc import Callable

from cluster.client import ClusterClient
from cluster.errors import BadCertificate, ClusterUnreachable
from cluster.wire.encryption import Tls
from schedules.events import Event, SchedulerJoined

_log = logging.getLogger(__name__)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0


class ClusterLink:
    """Holds the client; `client` is None until a scheduler has answered for the first time. The client outlives schedulers,
    and tells `listener` of them and of all else that it hears."""

    def __init__(
        self, scheduler_address: str, tls: Tls | None, listener: Callable[[Event], None] = lambda _event: None
    ) -> None:
        self._address, self._tls, self._listener = scheduler_address, tls, listener
        self.client: ClusterClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def stop(self) -> None:
        """Dissolve what is ours and disconnect."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def holds(self, digest: str) -> bool:
        """Whether a node that we know of holds the unit."""
        return self.client is not None and bool(self.client.view().holding(digest))

    def _hear(self, event: Event) -> None:
        """Whoever hears of a scheduler may give orders at once."""
        if isinstance(event, SchedulerJoined):
            self.client = self._coming
        self._listener(event)

    async def _stay_connected(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping:  # a Dask client that is closing swallows a cancellation
            try:
                self._coming = ClusterClient(self._address, self._tls, listener=self._hear)
                async with self._coming:
                    await asyncio.get_running_loop().create_future()
            except (ClusterUnreachable, BadCertificate) as error:
                _log.warning("%s; trying again in %.1f s", error, wait_s)
            except Exception:  # the front end is worth nothing without this loop
                _log.exception("the cluster's client failed; making another one")
            finally:
                self.client = None
            if not self._stopping:
                await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
