"""Where the node's memory for units is, and what of it is real: told to stage processes with a GPU, which pin it ahead."""

import asyncio
from contextlib import suppress

from cluster.errors import StageFailed
from cluster.node.stage_process import StageProcess
from cluster.tasks import Tasks
from cluster.wire.stages import PoolHere, PoolReal
from storage_tiers.tiers.shared_memory import BlockPool

PIECES_AT_ONCE = 4096
"""In one message: it stays far below what a channel takes."""


class PoolNews:
    """Of one pool of memory. Use from one event loop."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changes: set[asyncio.Event] = set()
        self._tasks = Tasks()

    def tell(self, process: StageProcess) -> None:
        """Have the process know of the memory, and of each piece of it that is or becomes real, until it ends."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._pool.on_real(self._hear)
        self._tasks.spawn(self._keep_told(process), "pool news")

    async def close(self) -> None:
        """Tell nobody any more."""
        await self._tasks.close()

    def _hear(self, _piece: int) -> None:
        """From any thread."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for changed in self._changes:
            changed.set()

    async def _keep_told(self, process: StageProcess) -> None:
        changed, told = asyncio.Event(), set[int]()
        self._changes.add(changed)
        process.ended.add_done_callback(lambda _ended: changed.set())
        try:
            with suppress(StageFailed):  # it is gone
                await process.send(PoolHere(self._pool.piece_bytes), self._pool.read_only_fd)
                while not process.ended.done():
                    changed.clear()
                    new = sorted(set(self._pool.real_pieces()) - told)
                    for at in range(0, len(new), PIECES_AT_ONCE):
                        await process.send(PoolReal(tuple(new[at : at + PIECES_AT_ONCE])))
                    told.update(new)
                    await changed.wait()
        finally:
            self._changes.discard(changed)
