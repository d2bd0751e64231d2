"""A node's answers to first stages that begin with rows of an embedding whose unit is still on its way."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cluster.node.exchange import UnitExchange
from cluster.wire.orders import FormStage
from schedules.placing.sources import store_first
from storage_tiers.checkpoint import TensorEntry, UnitIndex
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.rows import RowReader, embedding_of, rows_in
from storage_tiers.tiers.stack import TierStack
from storage_tiers.tiers.tier import Tier

ANSWERS_AT_ONCE = 4


class RowService:
    """Reads rows beside the stack's queue, never behind it. Use from the agent's event loop.

    Where stages `copy` their units to a device, the embedding's comes behind the others' though it is in dram.
    """

    def __init__(self, tiers: TierStack, peers: UnitExchange, copy: bool = False) -> None:
        self._tiers, self._peers, self._remote, self._copy = tiers, peers, RemoteTier(tiers.models), copy
        self._reader = RowReader()
        self._pool = ThreadPoolExecutor(ANSWERS_AT_ONCE, thread_name_prefix="row-service")

    def serves(self, order: FormStage) -> bool:
        """Whether the stage that is ordered can begin with rows."""
        return _embedding(order) is not None

    async def read(self, order: FormStage, rows: Sequence[int]) -> bytes | None:
        """The rows of the stage's embedding, one after the other; None if its unit is in dram, hence about to be handed
        over and used there. Missing, Corrupt or StoreUnavailable if no source has them right."""
        unit = _embedding(order)
        in_dram = unit is not None and self._tiers.dram.holds(unit)
        if unit is None or (in_dram and not self._copy):
            return None
        matrix = embedding_of(unit, _family(order))
        assert matrix is not None
        if in_dram and (found := self._in_dram(unit, matrix, rows)) is not None:
            return found
        asked = order.sources.get(unit.digest, ())
        near: list[Tier] = [self._tiers.ssd, *self._peers.sources(order.peers, asked)]
        if store_first(asked):
            near.insert(1, self._remote)
        sources = [*(source for source in near if source.holds(unit)), self._remote]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pool, self._reader.read, order.model, unit, matrix, tuple(rows), sources
        )

    def _in_dram(self, unit: UnitIndex, matrix: TensorEntry, rows: Sequence[int]) -> bytes | None:
        segment = self._tiers.dram.acquire(unit.digest)
        if segment is None:
            return None
        try:
            return rows_in(segment, matrix, rows)
        finally:
            self._tiers.dram.release(unit.digest)

    def close(self) -> None:
        """Give up what is under way."""
        self._reader.close()
        self._pool.shutdown(cancel_futures=True)


def _family(order: FormStage) -> str:
    family: str = json.loads(order.config_json)["model_type"]
    return family


def _embedding(order: FormStage) -> UnitIndex | None:
    """The unit of which the stage needs some rows first; None if it needs no unit so."""
    if order.rank != 0:
        return None
    return next((unit for unit in order.units if embedding_of(unit, _family(order)) is not None), None)
