"""The front end's connection to the cluster: made in the background, made again when it is lost."""

import asyncio
import logging

from cluster.client import ClusterClient
from cluster.errors import BadCertificate, ClusterUnreachable
from cluster.wire.encryption import Tls

_log = logging.getLogger(__name__)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0


class ClusterLink:
    """Holds the client that is connected now; `client` is None while there is none."""

    def __init__(self, scheduler_address: str, tls: Tls | None) -> None:
        self._address, self._tls = scheduler_address, tls
        self.client: ClusterClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def stop(self) -> None:
        """Dissolve what was formed and disconnect."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def holds(self, digest: str) -> bool:
        """Whether a node that we know of holds the unit."""
        return self.client is not None and bool(self.client.view().holding(digest))

    async def _stay_connected(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping:  # a Dask client that is closing swallows a cancellation
            try:
                async with ClusterClient(self._address, self._tls) as client:
                    self.client, wait_s = client, FIRST_WAIT_S
                    try:
                        await client.lost.wait()
                    finally:
                        self.client = None
                _log.warning("the cluster's scheduler at %s is gone; connecting again", self._address)
            except (ClusterUnreachable, BadCertificate) as error:
                _log.warning("%s; trying again in %.1f s", error, wait_s)
            except Exception:  # the front end is worth nothing without this loop
                _log.exception("the connection to the cluster failed; connecting again")
            if not self._stopping:
                await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
