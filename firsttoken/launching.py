"""The supervisor's end of the launcher, see launcher.py: has components forked that would import the same things.

Packets of JSON. The supervisor orders `number` and `arguments`, and two descriptors come along: the component's log, and a
pipe from which it reads one byte before it does anything. It is told `imported` once; then, of each order, `number` and
`pid` with a pidfd, or `number` and `fault`; and of each component `ended`, its pid, and `status`, when it is dead.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

IMPORT_WITHIN_S, FORK_WITHIN_S = 90.0, 5.0
UNKNOWN_STATUS = 255
"""Of a component that ended when the launcher had: nobody has seen it."""
_MESSAGE_BYTES = 1 << 16


class NotLaunched(Exception):
    """The launcher has ended, or does not answer, or the system gives it no process; never leaves this package."""


class Launched:
    """A component that the launcher has forked. As asyncio's processes, it can be waited for and be sent signals."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = asyncio.Event()

    def send_signal(self, signum: int) -> None:
        """ProcessLookupError if it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        signal.pidfd_send_signal(self._pidfd, signum)

    async def wait(self) -> int:
        """Until it is dead; its exit status, or minus the signal that killed it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def end(self, status: int) -> None:
        """It is dead."""
        if self.returncode is None:
            self.returncode = status
            os.close(self._pidfd)
            self._ended.set()

    def follow(self) -> None:
        """There is no launcher any more to tell of its end: hear of it from the kernel."""
        if self.returncode is None:
            asyncio.get_running_loop().add_reader(self._pidfd, self._see_end)

    def _see_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.end(UNKNOWN_STATUS)


class Launcher:
    """See the module. What it has made lives on when it ends."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self._process, self._sock = process, sock
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._imported: asyncio.Future[None] = self._loop.create_future()
        self._asked: dict[int, asyncio.Future[Launched]] = {}
        self._made: dict[int, Launched] = {}
        self._open = True
        self._loop.add_reader(sock, self._read)

    @classmethod
    async def start(cls, config: Path, environment: Mapping[str, str], directory: Path, log: Path) -> Self:
        """A launcher that imports from now on, in a session of its own."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, open(log, "ab") as output:  # noqa: ASYNC230 a local file, opened once
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "firsttoken.launcher", str(theirs.fileno()), str(config)),
                env=dict(environment),
                cwd=directory,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def launch(self, arguments: Sequence[str], log: int, watch: Callable[[int], None]) -> Launched:
        """The component `firsttoken ARGUMENTS`, its output appended to `log`. It does nothing before `watch` has been told
        its pid. NotLaunched if it does not come to be."""
        number, answer = next(self._numbers), self._loop.create_future()
        held, go = os.pipe()
        try:
            await self._within(self._imported, IMPORT_WITHIN_S)
            self._asked[number] = answer
            self._order(number, arguments, log, held)
            made: Launched = await self._within(answer, FORK_WITHIN_S)
            watch(made.pid)
            os.write(go, b"!")
        finally:
            self._asked.pop(number, None)
            os.close(held)
            os.close(go)  # one that has not been told to go on ends
        return made

    async def wait(self) -> None:
        """Until it has ended."""
        await self._process.wait()

    async def close(self) -> None:
        """Have it end."""
        self._lose()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # it may still import, and holds nothing
        await self.wait()

    async def _within(self, answer: "asyncio.Future[Any]", seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(answer)
        except TimeoutError:
            self._lose()
            raise NotLaunched(f"the launcher does not answer within {seconds:.0f} s") from None

    def _order(self, number: int, arguments: Sequence[str], log: int, held: int) -> None:
        order = json.dumps({"number": number, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._sock, [order], [log, held])
        except OSError as error:
            self._lose()
            raise NotLaunched(str(error)) from error

    def _read(self) -> None:
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(self._sock, _MESSAGE_BYTES, 1)
                if not data:
                    self._lose()
                    return
                self._hear(json.loads(data), fds)
        except BlockingIOError:
            return
        except OSError:
            self._lose()

    def _hear(self, message: Mapping[str, Any], fds: Sequence[int]) -> None:
        if "imported" in message:
            self._imported.set_result(None)
        elif "ended" in message:
            if (launched := self._made.pop(message["ended"], None)) is not None:
                launched.end(message["status"])
        elif "fault" in message:
            self._refuse(self._asked.pop(message["number"], None), message["fault"])
        else:
            self._made[message["pid"]] = made = Launched(message["pid"], fds[0])
            if (answer := self._asked.pop(message["number"], None)) is not None:
                answer.set_result(made)

    def _lose(self) -> None:
        """It has ended, or is not listened to any more."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._sock.close()
        waiting: list[asyncio.Future[Any]] = [self._imported, *self._asked.values()]
        for answer in waiting:
            self._refuse(answer, "the launcher has ended")
        for made in self._made.values():
            made.follow()

    def _refuse(self, answer: "asyncio.Future[Any] | None", reason: str) -> None:
        if answer is not None and not answer.done():
            answer.set_exception(NotLaunched(reason))
            answer.exception()  # perhaps nobody waits for it any more
