"""A node's pool whose stage processes are played: programs that sleep, and a test that speaks for them."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from cluster.node.pool import StagePool
from cluster.node.pool_news import PoolNews
from cluster.node.stage_process import StageProcess
from cluster.wire.codec import Channel
from cluster.wire.stages import Build, Formed, Idle, Taken, UnitHere


class PlayedProcess:
    """A stage process that does what its order wants as far as `goes` says: "forked", "ready", "taken" or "formed"."""

    def __init__(self, goes: str) -> None:
        ours, theirs = Channel.pair()
        pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
        self.process = StageProcess(pid, os.pidfd_open(pid), Channel(ours))
        self.heard: list[Any] = []
        self._goes, self._channel = goes, Channel(theirs)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(theirs.fileno(), self._read)
        self.process.ended.add_done_callback(lambda _ended: self._close())
        if goes != "forked":
            self._channel.send(Idle(pid, 1))

    def _read(self) -> None:
        try:
            message, fd = self._channel.receive(wait=False)
        except (EOFError, OSError):
            self._loop.remove_reader(self._channel.fileno())
            return
        if fd is not None:
            os.close(fd)
        self.heard.append(message)
        if isinstance(message, Build) and self._goes in ("taken", "formed"):
            self._channel.send(Taken())
            if self._goes == "formed":
                self._channel.send(Formed(()))

    def _close(self) -> None:
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()

    @property
    def units(self) -> list[str]:
        """The units that it was given."""
        return [message.unit.name for message in self.heard if isinstance(message, UnitHere)]


class PlayedPool(StagePool):
    """Empty, and forks nothing until `may_fork` is set; then what goes as far as `goes` says."""

    def __init__(self, *_as_others: Any, news: PoolNews | None = None) -> None:
        super().__init__(0, "127.0.0.1", 1, "cpu", lambda _idle: None, measure=False, news=news)
        self.may_fork, self.goes = asyncio.Event(), "formed"
        self.asked = asyncio.Event()
        self.made: list[PlayedProcess] = []

    def fill(self) -> None:
        """It stays empty."""

    async def _fork(self, measure: bool) -> StageProcess:
        self.asked.set()
        await self.may_fork.wait()
        self.made.append(PlayedProcess(self.goes))
        return self.made[-1].process

    @property
    def alive(self) -> int:
        """How many of its processes are not dead."""
        return sum(not played.process.ended.done() for played in self.made)


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
