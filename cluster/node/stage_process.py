"""The agent's end of a stage process: from its fork over its order to its end."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from cluster.errors import StageFailed
from cluster.node.child import Child
from cluster.wire.codec import Channel
from cluster.wire.stages import Broken, Build, Idle, Taken

_log = logging.getLogger(__name__)
READY_WITHIN_S = 60.0
"""A fork that is not ready then is of no use: it warms up in a fraction of a second, in some seconds where there is a GPU."""
ANSWER_WITHIN_S = 2.0
"""A process that waits for its order says at once that it has it."""


class StageProcess(Child):
    """A process that waits, or runs a stage. `idle` is what it says when it is ready, `fault` why it ended if it said so;
    what it says of its stage goes to `on_message`."""

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        super().__init__(pid, pidfd, channel)
        self.idle: asyncio.Future[Idle] = self._loop.create_future()
        self.on_message: Callable[[Any], None] = lambda _message: None
        self._taken: asyncio.Future[None] = self._loop.create_future()
        self.fault = "see the node's log"
        self._loop.call_later(READY_WITHIN_S, self._give_up)

    async def ready(self) -> Idle:
        """Wait until it is ready. StageFailed if it ends before."""
        await self._until(self.idle, READY_WITHIN_S)
        if not self.idle.done() or self.ended.done():
            raise StageFailed(f"a stage process ended before it had its order: {self.fault}")
        return self.idle.result()

    async def begin(self, order: Build) -> bool:
        """Whether it has taken the order. If not it is dead, and nothing of the order was begun.

        What is sent meanwhile comes after the order. StageFailed if it died when it had just taken it.
        """
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self.send(order)
                await self._until(self._taken, ANSWER_WITHIN_S)
        except TimeoutError:
            pass
        except StageFailed as error:
            _log.warning("%s", error)
        if self._taken.done() and not self.ended.done():
            return True
        _log.warning("stage process %d does not take its order, and is ended; another is to take it", self.pid)
        await self.end()
        if self._taken.done():
            raise StageFailed("the stage process ended when it had just taken its order")
        return False

    async def has_begun(self) -> bool:
        """Whether it has taken its order; waits as long as it has for that."""
        await self._until(self._taken, ANSWER_WITHIN_S)
        return self._taken.done()

    def _give_up(self) -> None:
        if not self.idle.done() and not self.ended.done():
            self.fault = f"it was not ready within {READY_WITHIN_S:.0f} s"
            self.kill()

    def _hear(self, message: Any, fd: int | None) -> None:
        if fd is not None:
            os.close(fd)
        if isinstance(message, Idle) and not self.idle.done():
            self.idle.set_result(message)
        elif isinstance(message, Taken) and not self._taken.done():
            self._taken.set_result(None)
        else:
            if isinstance(message, Broken):
                self.fault = message.cause
            self.on_message(message)
