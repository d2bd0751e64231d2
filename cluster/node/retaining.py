"""What a node keeps when it needs room: by worth, for as long as somebody says so, else what was used last."""

import asyncio

from cluster.errors import ClusterError
from cluster.wire.orders import Retain
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.tier import least_recently_used

LONGEST_S = 7 * 86_400.0


class Retaining:
    """Use from the node's event loop. A node begins with what was used last."""

    def __init__(self, dram: DramTier, ssd: SsdTier) -> None:
        self._dram, self._ssd = dram, ssd
        self._wanted_on_ssd: frozenset[str] | None = None
        self._ends: asyncio.TimerHandle | None = None

    def take(self, order: Retain) -> None:
        """This holds from now on, and nothing of before. ClusterError, which changes nothing, if it cannot be done."""
        if not 0.0 < order.for_s <= LONGEST_S:
            raise ClusterError(
                f"a node keeps units by their worth for up to {LONGEST_S:.0f} s, not for {order.for_s} s"
            )
        dram, ssd = order.dram.retention(), order.ssd.retention()
        self.close()
        self._dram.retain(dram.rank)
        self._ssd.retain(ssd.rank)
        self._wanted_on_ssd = frozenset(ssd.worth)
        self._ends = asyncio.get_running_loop().call_later(order.for_s, self._end)

    def wants_on_ssd(self, digest: str) -> bool:
        """Whether a unit that is brought to dram is to be on ssd as well; all of them while nobody says what is."""
        return self._wanted_on_ssd is None or digest in self._wanted_on_ssd

    def close(self) -> None:
        """Wait for no end any more."""
        if self._ends is not None:
            self._ends.cancel()

    def _end(self) -> None:
        self._wanted_on_ssd = None
        self._dram.retain(least_recently_used)
        self._ssd.retain(least_recently_used)
