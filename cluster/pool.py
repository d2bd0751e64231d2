"""The stage processes of a node: forked from a zygote that has everything imported, kept ready, refilled behind."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from cluster.errors import ProtocolError, StageFailed
from cluster.messages import Fork, Idle
from cluster.wire import Channel

_log = logging.getLogger(__name__)


class StageProcess:
    """The agent's end of one stage process. What it sends goes to `on_message`; `ended` is set when it is dead."""

    def __init__(self, pidfd: int | None, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._pidfd, self._channel, self._loop = pidfd, channel, loop
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="to-stage")
        self.idle: asyncio.Future[Idle] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.on_message: Callable[[Any], None] = lambda _message: None
        loop.add_reader(channel.fileno(), self._read)
        if pidfd is None:
            self._finish()
        else:
            loop.add_reader(pidfd, self._finish)

    async def send(self, message: object, fd: int | None = None) -> None:
        """Send in order of the calls, without blocking the loop. StageFailed if the process is gone."""
        try:
            await self._loop.run_in_executor(self._sender, self._channel.send, message, fd)
        except (OSError, RuntimeError) as error:
            raise StageFailed(f"the stage process is gone: {error}") from error

    async def end(self) -> None:
        """Kill the process if it still runs, wait until it is dead and give up what led to it."""
        if self._pidfd is not None and not self.ended.done():
            with suppress(ProcessLookupError):  # dead already, which the loop has yet to see
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await self.ended
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
            await self._loop.run_in_executor(None, self._sender.shutdown)
            self._channel.close()

    def _finish(self) -> None:
        """The process is dead: read what it still said, then say so."""
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._read()
        if not self.idle.done():
            self.idle.set_exception(StageFailed("a stage process ended before it was ready; see the node's log"))
            self.idle.exception()  # its taker sees it; without one nobody has to
        if not self.ended.done():
            self.ended.set_result(None)

    def _read(self) -> None:
        try:
            while True:
                message, fd = self._channel.receive(wait=False)
                if fd is not None:
                    os.close(fd)
                if isinstance(message, Idle) and not self.idle.done():
                    self.idle.set_result(message)
                else:
                    self.on_message(message)
        except BlockingIOError:
            return
        except (EOFError, OSError, ProtocolError):
            self._loop.remove_reader(self._channel.fileno())


class Zygote:
    """The process that stage processes are forked from. Blocking; call from one thread."""

    def __init__(self, host: str, threads: int, device: str) -> None:
        ours, theirs = Channel.pair()
        with theirs:
            command = [sys.executable, "-m", "cluster.zygote", str(theirs.fileno()), host, str(threads), device]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._channel = Channel(ours)

    def fork(self, measure: bool = False) -> tuple[int | None, Channel]:
        """A new stage process: its pidfd (None if it died at once) and the channel to it. EOFError without zygote."""
        ours, theirs = Channel.pair()
        try:
            with theirs:
                self._channel.send(Fork(measure), theirs.fileno())
            _, pidfd = self._channel.receive()
        except BaseException:
            ours.close()
            raise
        return pidfd, Channel(ours)

    def close(self) -> None:
        """End the zygote, and with it every child."""
        self._channel.close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:  # it was still importing
            self._process.kill()
            self._process.wait()


class StagePool:
    """Keeps `size` processes ready beside those that are taken. Use from one event loop.

    They compute on `device`, "cpu" or "cuda": the only GPU that this process's environment lets its children see.
    `on_idle` hears of each that is ready. If `measure` says so the first one measures while it warms up.
    """

    def __init__(
        self, size: int, host: str, threads: int, device: str, on_idle: Callable[[Idle], None], measure: bool
    ) -> None:
        self._size, self._host, self._threads, self._device = size, host, threads, device
        self._on_idle, self._measure = on_idle, measure
        self._zygote: Zygote | None = None
        self._ready: list[StageProcess] = []
        self._refill: asyncio.Task[None] | None = None
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="zygote")
        self._closed = False

    @property
    def idle(self) -> int:
        """Processes that have everything imported and wait."""
        return sum(process.idle.done() and not process.ended.done() for process in self._ready)

    def fill(self) -> None:
        """Start what is missing, in the background."""
        if not self._closed and (self._refill is None or self._refill.done()):
            self._refill = asyncio.get_running_loop().create_task(self._start_missing())

    async def take(self) -> StageProcess:
        """A process that is ready, or the first that will be; the caller bounds the wait. StageFailed if none starts."""
        while True:
            while not self._ready:
                self.fill()
                assert self._refill is not None
                await asyncio.shield(self._refill)
            process = min(self._ready, key=lambda p: not p.idle.done())
            self._ready.remove(process)
            try:
                await asyncio.shield(process.idle)
            except BaseException:
                await process.end()
                raise
            if not process.ended.done():
                return process
            await process.end()

    async def measure(self) -> Mapping[str, float]:
        """What a process measures that is made for it; the caller bounds the wait. StageFailed if none starts."""
        loop = asyncio.get_running_loop()
        pidfd, channel = await loop.run_in_executor(self._starter, self._start, True)
        process = StageProcess(pidfd, channel, loop)
        try:
            return (await asyncio.shield(process.idle)).rates
        finally:
            await process.end()

    async def close(self) -> None:
        """End the waiting processes and the zygote; those taken are their takers' to end, before."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._stop_zygote)
        await asyncio.gather(*(process.end() for process in self._ready))
        self._ready.clear()

    def _stop_zygote(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()
        self._starter.shutdown()

    async def _start_missing(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._ready) < max(self._size, 1) and not self._closed:
            pidfd, channel = await loop.run_in_executor(self._starter, self._start, self._measure)
            self._measure = False
            process = StageProcess(pidfd, channel, loop)
            process.idle.add_done_callback(self._hear)
            self._ready.append(process)

    def _hear(self, idle: "asyncio.Future[Idle]") -> None:
        if not idle.cancelled() and idle.exception() is None:
            self._on_idle(idle.result())

    def _start(self, measure: bool) -> tuple[int | None, Channel]:
        if self._zygote is None:
            self._zygote = Zygote(self._host, self._threads, self._device)
        try:
            return self._zygote.fork(measure)
        except (EOFError, OSError) as error:
            zygote, self._zygote = self._zygote, None
            if zygote is not None:
                zygote.close()
            raise StageFailed(f"the node's zygote died ({error}); see the node's log") from error
