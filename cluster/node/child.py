"""The agent's end of a process below it: a channel, and a pidfd by which it is watched and ended."""

import asyncio
import logging
import os
import signal
import time
from collections import deque
from contextlib import suppress
from typing import Any

from cluster.errors import ProtocolError, StageFailed
from cluster.wire.codec import Channel

_log = logging.getLogger(__name__)
_Unsent = tuple[object, int | None, "asyncio.Future[None]"]
"""A message, the descriptor that goes with it, and who waits until it is sent."""


class Child:
    """A process that is a child of this one. `ended` is set when it is dead; then all that led to it is given up.

    Use from the event loop that runs when it is made. A process that says what is no message, or closes its end of the
    channel, is killed.
    """

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        self.pid = pid
        self._pidfd, self._channel = pidfd, channel
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[_Unsent] = deque()
        self._stopped_since_s: float | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(channel.fileno(), self._read)
        self._loop.add_reader(pidfd, self._finish)

    def stopped_s(self) -> float:
        """For how long it has been seen to be stopped, by calls of this; 0 if it runs."""
        if not self.stopped:
            self._stopped_since_s = None
            return 0.0
        if self._stopped_since_s is None:
            self._stopped_since_s = time.monotonic()
        return time.monotonic() - self._stopped_since_s

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped it."""
        if self.ended.done():
            return False
        try:
            return os.waitid(os.P_PIDFD, self._pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    async def send(self, message: object, fd: int | None = None) -> None:
        """Send in order of the calls; it may take as long as the process lives. StageFailed if it is gone.

        `fd` must stay open until then.
        """
        if self.ended.done():
            raise StageFailed("the process is gone")
        if not self._unsent:
            with suppress(BlockingIOError):
                self._put(message, fd)
                return
            self._loop.add_writer(self._channel.fileno(), self._write)
        sent = self._loop.create_future()
        self._unsent.append((message, fd, sent))
        await sent

    def kill(self) -> None:
        """Have it dead soon, whatever it does."""
        if not self.ended.done():
            with suppress(ProcessLookupError):  # dead already, which the loop has yet to see
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is dead."""
        self.kill()
        await asyncio.wait({self.ended})

    async def _until(self, what: "asyncio.Future[Any]", within_s: float) -> None:
        """Wait until it is done, or the process is dead, or the time is over."""
        awaited: set[asyncio.Future[Any]] = {what, self.ended}
        await asyncio.wait(awaited, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)

    def _hear(self, message: Any, fd: int | None) -> None:
        """What it says; a descriptor that came with it is this method's to close."""
        raise NotImplementedError

    def _reap(self) -> None:
        """It is dead: have the kernel forget it."""
        with suppress(ChildProcessError):  # reaped already
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)

    def _put(self, message: object, fd: int | None) -> None:
        try:
            self._channel.send(message, fd, wait=False)
        except BlockingIOError:
            raise
        except OSError as error:
            raise StageFailed(f"process {self.pid} cannot be told anything: {error}") from error

    def _write(self) -> None:
        """There is room for what could not be sent."""
        while self._unsent:
            message, fd, sent = self._unsent[0]
            if not sent.done():
                try:
                    self._put(message, fd)
                    sent.set_result(None)
                except BlockingIOError:
                    return
                except StageFailed as error:
                    sent.set_exception(error)
            self._unsent.popleft()
        self._loop.remove_writer(self._channel.fileno())

    def _read(self) -> None:
        try:
            while True:
                self._hear(*self._channel.receive(wait=False))
        except BlockingIOError:
            return
        except (EOFError, OSError, ProtocolError) as error:
            self._loop.remove_reader(self._channel.fileno())
            if not isinstance(error, EOFError):
                _log.warning("process %d is ended: what it says is not understood: %s", self.pid, error)
            self.kill()

    def _finish(self) -> None:
        """The process is dead: hear what it still said, then give up all that led to it, and say so."""
        self._loop.remove_reader(self._pidfd)
        try:
            self._read()
        finally:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._reap()
            os.close(self._pidfd)
            self._channel.close()
            self.ended.set_result(None)
            while self._unsent:
                _, _, sent = self._unsent.popleft()
                if not sent.done():
                    sent.set_exception(StageFailed(f"process {self.pid} is gone"))
