"""Units on their way to nodes ahead of their use, on behalf of this client: how far they are, and for whom they wait.

On its own node what is brought ahead goes behind all else. The store, and the cards of nodes that give units away, it shares
with others: while a cold start on another node waits for its units, what this client brings stands still.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from cluster.contract import Progress
from cluster.errors import ClusterError, StageFailed
from cluster.hearing import Hearing
from cluster.wire.orders import BringUnits, HoldStaging
from cluster.wire.reports import Done, UnitsBrought
from storage_tiers.checkpoint import UnitIndex

ORDER_BYTES = 64 << 20
"""About so much is brought by one order: between two of them whoever asked hears how far it is."""
HOLD_S, HOLD_WITHIN_S = 2.0, 1.0
LONGEST_HOLD_S, GO_ON_S = 30.0, 3.0
"""Where cold starts follow one another without an end, what is brought has its share of time all the same."""
ANSWER_WITHIN_S = 2.0
"""What a node has beyond the time of an order that it bounds itself, to say how it ended."""
MakeOrder = Callable[[Sequence[UnitIndex], float], BringUnits]
"""Of the order for some of the units, which has so many seconds."""


class Staging:
    """Use from one event loop."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing

    async def bring(
        self, node: str, units: Sequence[UnitIndex], make: MakeOrder, timeout_s: float, on_progress: Progress | None
    ) -> UnitsBrought:
        """One order after the other, until all units are there. StageFailed says how far it came in the time."""
        until_s, size_bytes = time.monotonic() + timeout_s, sum(unit.size_bytes for unit in units)
        brought: list[UnitsBrought] = []
        holding = asyncio.ensure_future(self._hold_back(node))
        try:
            async with asyncio.timeout(timeout_s):
                for some in _portions(units):
                    order = make(some, max(0.0, until_s - time.monotonic()) + ANSWER_WITHIN_S)
                    brought.append(
                        await self._hearing.order(node, order, UnitsBrought, order.timeout_s + ANSWER_WITHIN_S)
                    )
                    if on_progress is not None:
                        on_progress(_bytes_of(brought))
        except TimeoutError:
            raise StageFailed(
                f"{_bytes_of(brought):,} of {size_bytes:,} bytes were brought to {node} in {timeout_s:.0f} s"
            ) from None
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
        fetched_bytes = sum(each.fetched_bytes for each in brought)
        seconds = timeout_s - (until_s - time.monotonic())
        return UnitsBrought(node, brought[0].tier, len(units), fetched_bytes, size_bytes - fetched_bytes, seconds)

    async def _hold_back(self, node: str) -> None:
        """Have the node hold back what is brought to it as long as it shall."""
        while True:
            await self._hearing.until(lambda: self._awaited(node))
            until_s = time.monotonic() + LONGEST_HOLD_S
            while self._awaited(node) and time.monotonic() < until_s:
                await self._say(node, HOLD_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(HOLD_S / 2):
                        await self._hearing.until(lambda: not self._awaited(node))
            await self._say(node, 0.0)
            if self._awaited(node):
                await asyncio.sleep(GO_ON_S)

    def _awaited(self, node: str) -> bool:
        """Whether a cold start on another node waits for units."""
        fetching = self._hearing.roster.fetching
        return len(fetching) > (node in fetching)

    async def _say(self, node: str, hold_s: float) -> None:
        with suppress(ClusterError):  # what is brought there will fail for the same reason
            await self._hearing.order(node, HoldStaging(hold_s), Done, HOLD_WITHIN_S)


def _portions(units: Sequence[UnitIndex]) -> Iterator[Sequence[UnitIndex]]:
    """In order, each of at least ORDER_BYTES but for the last; there is one in any case."""
    some: list[UnitIndex] = []
    for unit in units[:-1]:
        some.append(unit)
        if sum(each.size_bytes for each in some) >= ORDER_BYTES:
            yield some
            some = []
    yield [*some, *units[-1:]]


def _bytes_of(brought: Sequence[UnitsBrought]) -> int:
    return sum(each.fetched_bytes + each.present_bytes for each in brought)
