"""The agent's end of its zygote: starts it, has it fork stage processes, and outlives it."""

import asyncio
import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from cluster.errors import StageFailed
from cluster.node.child import Child
from cluster.node.parentage import adopt_orphans
from cluster.node.stage_process import StageProcess
from cluster.node.zygote import be_zygote
from cluster.wire.codec import Channel
from cluster.wire.forks import Fork, Forked, Imported, NotForked

IMPORT_WITHIN_S = 300.0
"""On a machine that is busy, from a disk that is slow. One that is stopped meanwhile is not waited for."""
FORK_WITHIN_S = 5.0
"""A fork takes milliseconds."""


@dataclass(frozen=True)
class _Asked:
    """A fork that is under way: who waits for it, and our end of the channel that the process will talk on."""

    answer: asyncio.Future[StageProcess]
    channel: Channel


@dataclass(frozen=True)
class Started:
    """A zygote that is there, and that nobody watches yet; `reap` waits until it is dead, and has the kernel forget it."""

    pid: int
    pidfd: int
    channel: Channel
    reap: Callable[[], object]


def run_zygote(host: str, threads: int, device: str) -> Started:
    """A zygote that imports from now on. StageFailed if the system has no process or descriptor for it."""
    try:
        with ExitStack() as made:
            adopt_orphans()
            ours, theirs = Channel.pair()
            made.callback(ours.close)
            with theirs:
                arguments = [str(theirs.fileno()), str(os.getpid()), host, str(threads), device]
                process = subprocess.Popen(
                    [sys.executable, "-m", "cluster.node.zygote", *arguments],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # by which its orphans are known
                )
            made.callback(process.wait)
            made.callback(process.kill)
            pidfd = os.pidfd_open(process.pid)
            made.pop_all()
    except OSError as error:
        raise StageFailed(f"no zygote can be started: {error}") from error
    return Started(process.pid, pidfd, Channel(ours), process.wait)


def fork_zygote(host: str, threads: int, device: str) -> Started:
    """A zygote forked from this process, which has everything imported, no thread yet and no event loop. OSError if the
    system has none to give."""
    adopt_orphans()
    ours, theirs = Channel.pair()
    agent = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        be_zygote(theirs, agent, host, threads, device)
    theirs.close()
    return Started(pid, os.pidfd_open(pid), Channel(ours), lambda: os.waitpid(pid, 0))


class ZygoteProcess(Child):
    """The process that stage processes are forked from. They are children of this one, and do not end with it."""

    def __init__(self, started: Started) -> None:
        super().__init__(started.pid, started.pidfd, started.channel)
        self._started = started
        self._imported: asyncio.Future[None] = self._loop.create_future()
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count()

    async def ready(self) -> None:
        """Wait until it has everything imported. StageFailed if it dies before, or does not come to it."""
        await self._answer(self._imported, IMPORT_WITHIN_S)

    async def fork(self, measure: bool) -> StageProcess:
        """A new stage process. StageFailed if the system has none to give, or if the zygote dies or does not answer."""
        await self.ready()
        answer: asyncio.Future[StageProcess] = self._loop.create_future()
        try:
            ours, theirs = Channel.pair()
        except OSError as error:
            raise StageFailed(f"no stage process can be made: {error}") from error
        number = next(self._numbers)
        self._asked[number] = _Asked(answer, Channel(ours))
        try:
            with theirs:
                await self.send(Fork(number, measure), theirs.fileno())
            process: StageProcess = await self._answer(answer, FORK_WITHIN_S)
        except BaseException:
            if answer.done() and answer.exception() is None:
                answer.result().kill()
            answer.cancel()
            raise
        return process

    async def _answer(self, answer: "asyncio.Future[Any]", within_s: float) -> Any:
        await self._until(answer, within_s)
        if answer.done():
            return answer.result()
        if self.ended.done():
            raise StageFailed("the node's zygote died; see the node's log")
        self.kill()
        raise StageFailed(f"the node's zygote did not answer within {within_s:.0f} s")

    def _hear(self, message: Any, fd: int | None) -> None:
        if isinstance(message, Imported) and not self._imported.done():
            self._imported.set_result(None)
        elif isinstance(message, Forked | NotForked) and message.number in self._asked:
            self._forked(self._asked.pop(message.number), message, fd)
        elif fd is not None:
            os.close(fd)

    def _forked(self, asked: _Asked, message: Forked | NotForked, pidfd: int | None) -> None:
        if isinstance(message, NotForked) or pidfd is None:
            reason = message.reason if isinstance(message, NotForked) else os.strerror(errno.EMFILE)
            asked.channel.close()  # if there is a process, it ends
            if not asked.answer.done():
                asked.answer.set_exception(StageFailed(f"no stage process can be made: {reason}"))
            return
        process = StageProcess(message.pid, pidfd, asked.channel)
        if asked.answer.done():  # nobody waits for it any more
            process.kill()
        else:
            asked.answer.set_result(process)

    def _reap(self) -> None:
        for asked in self._asked.values():
            asked.channel.close()
        self._asked.clear()
        self._started.reap()
