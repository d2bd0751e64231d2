"""What is done beside all else: tasks that are kept, logged if they fail, and ended with whoever keeps them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

_log = logging.getLogger(__name__)
AGAIN_AFTER_S = 1.0


class Tasks:
    """Use from one event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do this meanwhile, once."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def keep(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Do this until `close`: where it fails it begins again a second later."""
        self.spawn(self._again_and_again(work, name), name)

    async def close(self) -> None:
        """End all of them, and what they begin on their way out."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _again_and_again(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        while True:
            try:
                await work()
                return
            except Exception:
                _log.exception("task %s failed, and begins again", name)
            await asyncio.sleep(AGAIN_AFTER_S)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task %s failed", task.get_name(), exc_info=error)
