"""One component as a child process: started in a session of its own, logged, watched, ended with all it started."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from firsttoken import guard as guard_script
from firsttoken.launching import Launched, Launcher, NotLaunched

REPLACE_EVERY_S = 0.5


@dataclass(frozen=True)
class Component:
    """What the supervisor keeps running. `ready` returns once the component serves; components of a lower `stop_rank`
    are ended first. `stop_signal` is what it ends by without delay. One with `arguments` is `firsttoken ARGUMENTS`, and may
    be had from a launcher instead of by its command. Once it has ended `check_ports` raises PortInUse if one of its ports is
    another's."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    ready: Callable[[], Awaitable[None]]
    start_timeout_s: float
    stop_rank: int
    stop_signal: signal.Signals = signal.SIGTERM
    arguments: tuple[str, ...] = ()
    check_ports: Callable[[], None] = lambda: None


class Guard:
    """The supervisor's side of guard.py: while it is open there is one, which knows all groups. Holds `lock` (a descriptor)
    until the guard has ended too. `on_lost` hears the status of one that ended and is replaced."""

    _process: asyncio.subprocess.Process
    _keeper: asyncio.Task[None]

    def __init__(self, lock: int, on_lost: Callable[[int], object]) -> None:
        self._lock, self._on_lost = lock, on_lost
        self._groups: dict[int, None] = {}

    @classmethod
    async def start(cls, lock: int, on_lost: Callable[[int], object]) -> Self:
        """Start the guard process."""
        guard = cls(lock, on_lost)
        await guard._spawn()
        guard._keeper = asyncio.create_task(guard._keep())
        return guard

    def watch(self, group: int) -> None:
        """From now on `group` does not outlive the supervisor."""
        self._groups[group] = None
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """`group` is gone."""
        self._groups.pop(group, None)
        self._tell(f"-{group}\n")

    async def close(self) -> None:
        """End the guard, and with it whatever it still watches."""
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def _spawn(self) -> None:
        known = list(self._groups)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(guard_script.__file__), *map(str, known)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self._lock,),
        )
        for group in known:
            if group not in self._groups:
                self._tell(f"-{group}\n")
        for group in self._groups:
            if group not in known:
                self._tell(f"+{group}\n")

    async def _keep(self) -> None:
        """Replace the guard whenever it ends; it could be killed like any process, and then nobody would guard."""
        while True:
            self._on_lost(await self._process.wait())
            with contextlib.suppress(OSError):  # no process can be had: the next round tries again
                await self._spawn()
            await asyncio.sleep(REPLACE_EVERY_S)

    def _tell(self, line: str) -> None:
        """To one that has just died it is told in vain; the next hears of all groups."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())


class Running:
    """A started component."""

    def __init__(
        self, process: asyncio.subprocess.Process | Launched, guard: Guard, stop_signal: signal.Signals
    ) -> None:
        self._process = process
        self._guard = guard
        self._stop_signal = stop_signal

    @classmethod
    async def start(
        cls, component: Component, directory: Path, log: Path, guard: Guard, launcher: Launcher | None = None
    ) -> Self:
        """Start `component` in `directory`, its output appended to `log`; by `launcher`, if there is one and it can be."""
        with open(log, "ab") as output:  # noqa: ASYNC230 a local file, opened once per process
            if launcher is not None and component.arguments:
                with contextlib.suppress(NotLaunched):
                    launched = await launcher.launch(component.arguments, output.fileno(), guard.watch)
                    return cls(launched, guard, component.stop_signal)
            process = await asyncio.create_subprocess_exec(
                *component.command,
                env=dict(component.environment),
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which ends components in order
            )
        guard.watch(process.pid)
        return cls(process, guard, component.stop_signal)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the component's end, end what it left behind, and return its exit status."""
        status = await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._guard.forget(self.pid)
        return status

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Ask the component to end; kill it when `grace_s` is over or `hurry` is set."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self._stop_signal)
            ended = asyncio.create_task(self._process.wait())
            hurried = asyncio.create_task(hurry.wait())
            await asyncio.wait({ended, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGKILL)  # forked just now, it may not lead its group yet
                await ended
        await self.wait()


def last_lines(log: Path, count: int) -> str:
    """The last `count` lines of a log, or what there is of it."""
    with contextlib.suppress(FileNotFoundError), open(log, encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, maxlen=count)).rstrip()
    return ""
