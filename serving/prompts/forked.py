"""The front end's end of the zygote of text processes, and of one process that was forked from it."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.wire.codec import Channel
from cluster.wire.forks import Fork, NotForked
from serving.prompts.questions import LENGTH, MAX_FRAME_BYTES, Request, frame, unframe

_FORK_TIMEOUT_S = 60.0
"""A fork takes milliseconds; the first one waits until the zygote has everything imported."""
_END_TIMEOUT_S = 2.0
_BUFFER_BYTES = 1 << 20
_NICE = 10


class ProcessGone(Exception):
    """The process has ended, or could not be started."""


class TextProcess:
    """One forked process, and the socket to it."""

    def __init__(self, pid: int, pidfd: int | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pid, self._pidfd, self._reader, self._writer = pid, pidfd, reader, writer

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""
        return self._reader.at_eof()

    async def send(self, request: Request) -> None:
        """Hand a request over; ProcessGone if there is nobody."""
        try:
            self._writer.write(frame(request))
            await self._writer.drain()
        except OSError as error:
            raise ProcessGone from error

    async def receive(self) -> Any:
        """The next message; ProcessGone if none will come. The caller bounds the wait."""
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if length > MAX_FRAME_BYTES:
                raise ProcessGone
            return unframe(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ProcessGone from error

    def slow_down(self) -> None:
        """Let everything else on this machine go first."""
        self._renice(_NICE)

    def speed_up(self) -> None:
        """Undo that, where we may."""
        self._renice(0)

    def end(self) -> None:
        """Kill the process and give up what led to it."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = None
        self._writer.transport.abort()

    def _renice(self, nice: int) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PROCESS, self._pid, nice)


class TextZygote:
    """Starts the zygote, and again if it dies; `folder` is for tokenizers' files and goes with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="firsttoken-text-"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="text-zygote")
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    async def start(self) -> None:
        """Begin what takes a second, so that the first fork finds it done."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._start)

    async def fork(self) -> TextProcess:
        """A new process; ProcessGone if there is none to be had."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                work = asyncio.get_running_loop().run_in_executor(self._thread, self._fork, theirs)
                try:
                    pid, pidfd = await asyncio.shield(work)
                except asyncio.CancelledError:
                    await asyncio.wait({work})  # it needs its end of the socket
                    if work.exception() is None and (pidfd := work.result()[1]) is not None:
                        os.close(pidfd)
                    raise
        except BaseException:
            ours.close()
            raise
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_BUFFER_BYTES)
        except BaseException:
            ours.close()
            if pidfd is not None:
                os.close(pidfd)
            raise
        return TextProcess(pid, pidfd, reader, writer)

    async def close(self) -> None:
        """End the zygote, and with it whatever is left of its processes."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._stop)
        await loop.run_in_executor(None, self._thread.shutdown)

    def _start(self) -> None:
        ours, theirs = Channel.pair()
        ours.settimeout(_FORK_TIMEOUT_S)
        with theirs:
            command = [sys.executable, "-m", "serving.prompts.text_zygote", str(theirs.fileno()), str(self.folder)]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._channel = Channel(ours)

    def _fork(self, theirs: socket.socket) -> tuple[int, int | None]:
        if self._channel is None:
            self._start()
        assert self._channel is not None
        try:
            self._channel.send(Fork(0), theirs.fileno())
            forked, pidfd = self._channel.receive()
        except (EOFError, OSError) as error:
            self._kill()
            raise ProcessGone(f"the zygote of text processes died ({error})") from error
        if isinstance(forked, NotForked):
            raise ProcessGone(forked.reason)
        return forked.pid, pidfd

    def _kill(self) -> None:
        """End a zygote that does not work; the folder stays for the next one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None

    def _stop(self) -> None:
        if self._channel is not None and self._process is not None:
            self._channel.close()
            self._channel = None
            with suppress(subprocess.TimeoutExpired):  # it was still importing
                self._process.wait(_END_TIMEOUT_S)
        self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)
