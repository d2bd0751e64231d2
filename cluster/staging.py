"""Units on their way to nodes ahead of their use, on behalf of this client: how far they are, and for whom they wait.

On its own node what is brought ahead goes behind all else. The store, and the cards of nodes that give units away, it shares
with others: while a cold start on another node waits for its units, what this client brings stands still.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from cluster.contract import Progress
from cluster.errors import ClusterError
from cluster.hearing import Hearing
from cluster.wire.orders import BringUnits, HoldStaging
from cluster.wire.reports import Done, UnitsBrought

HOLD_S, HOLD_WITHIN_S = 2.0, 1.0
LONGEST_HOLD_S, GO_ON_S = 30.0, 3.0
"""Where cold starts follow one another without an end, what is brought has its share of time all the same."""
ANSWER_WITHIN_S = 2.0
"""What a node has beyond the time of an order that it bounds itself, to say how it ended."""
_NOTHING: Mapping[str, str] = {}


class Staging:
    """Use from one event loop."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing

    async def bring(self, node: str, order: BringUnits, on_progress: Progress | None) -> UnitsBrought:
        """What the order comes to, which is given up with whoever waits for it."""
        if self._awaited(node):
            await self._say(node, HOLD_S)
        beside = [asyncio.ensure_future(self._hold_back(node))]
        if on_progress is not None:
            beside.append(asyncio.ensure_future(self._follow(node, order, on_progress)))
        try:
            brought = await self._hearing.order(node, order, UnitsBrought, order.timeout_s + ANSWER_WITHIN_S)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        if on_progress is not None:
            on_progress(brought.fetched_bytes + brought.present_bytes)
        return brought

    async def _follow(self, node: str, order: BringUnits, on_progress: Progress) -> None:
        """Tell what the node's reports say."""
        told_bytes, held = 0, self._held(node)
        while True:
            there = (unit.size_bytes for unit in order.units if held.get(unit.digest) in (order.tier, "dram"))
            if (size_bytes := sum(there)) > told_bytes:
                told_bytes = size_bytes
                on_progress(told_bytes)
            await self._hearing.until(partial(self._differs, node, held))
            held = self._held(node)

    def _held(self, node: str) -> Mapping[str, str]:
        """What the node has; the same object until it has said something else."""
        known = self._hearing.roster.known.get(node)
        return known.node.units if known is not None else _NOTHING

    def _differs(self, node: str, held: Mapping[str, str]) -> bool:
        return self._held(node) is not held

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
