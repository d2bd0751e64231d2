"""Everything on one machine: starts the components as child processes, keeps them up, ends them in order.

Nothing outlives it: a guard process ends what a killed supervisor leaves. It takes signals from the moment it holds the
home, so use it from the main thread only.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from firsttoken import ready
from firsttoken.credentials import with_certificates, with_prefect_auth
from firsttoken.errors import StartFailed
from firsttoken.home import FLOWS_READY_FILE, UpState, clear_state, hold_home, read_state, urls, write_state
from firsttoken.launching import Launcher
from firsttoken.ports import assigned_ports, check_ports
from firsttoken.process import Component, Guard, Running, last_lines
from firsttoken.settings import ENVIRONMENT_PREFIX, Settings, load_settings, write_settings

SETTINGS_FILE = "settings.json"
STOP_GRACE_S = 15.0
MOST_RESTARTS, RESTARTS_WINDOW_S = 5, 60.0
_LOG_LINES_SHOWN = 15

Phase = Literal["starting", "ready", "restarting", "stopping", "stopped"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Step:
    """A component entered a phase; `seconds` since it was started (or asked to stop)."""

    component: str
    phase: Phase
    seconds: float
    detail: str = ""


Report = Callable[[Step], None]
Ready = Callable[[], Awaitable[None]]


def components(settings: Settings, environment: Mapping[str, str]) -> tuple[Component, ...]:
    """The components of a platform whose settings stand in its run folder, in the order in which they are started.

    They wait for each other by themselves, so all are started at once.
    """
    path = settings.run_dir / SETTINGS_FILE
    inherited = {key: value for key, value in environment.items() if not key.startswith(ENVIRONMENT_PREFIX)}
    inherited |= {"PYTHONUNBUFFERED": "1"}

    def component(
        name: str,
        *command: str,
        until: Ready,
        start_timeout_s: float,
        stop_rank: int,
        stop_signal: signal.Signals = signal.SIGTERM,
        launched: bool = False,
        ports: str = "",
    ) -> Component:
        arguments = (*command, "--config", str(path))
        full = (sys.executable, "-m", "firsttoken", *arguments)
        by_launcher = arguments if launched else ()
        check = partial(check_ports, settings, ports)
        return Component(name, full, inherited, until, start_timeout_s, stop_rank, stop_signal, by_launcher, check)

    listed = ready.Nodes(f"{settings.frontend_url}/admin/status")
    scheduler = partial(ready.port_open, settings.cluster.scheduler_host, settings.cluster.scheduler_port)
    prefect = partial(ready.http_ok, f"{settings.prefect.api_url}/health")
    frontend = partial(ready.http_ok, f"{settings.frontend_url}/healthz")
    flows = partial(ready.file_there, settings.run_dir / FLOWS_READY_FILE)
    nodes = (
        component(
            *(name, "node", "--name", name, "--sharing", str(settings.cluster.nodes)),
            until=partial(listed.serves, name, settings.node.pool_size),
            start_timeout_s=120,
            stop_rank=2,
            stop_signal=signal.SIGINT,  # nobody is left to take its stages' requests
            launched=True,
        )
        for name in (f"node-{number}" for number in range(1, settings.cluster.nodes + 1))
    )
    return (
        component("scheduler", "scheduler", until=scheduler, start_timeout_s=60, stop_rank=3, ports="cluster"),
        *nodes,
        component("frontend", "frontend", until=frontend, start_timeout_s=90, stop_rank=0, ports="frontend"),
        component("prefect", "prefect", until=prefect, start_timeout_s=120, stop_rank=4, ports="prefect"),
        component("flows", "flows", until=flows, start_timeout_s=120, stop_rank=1),
    )


def running_settings(settings: Settings) -> Settings:
    """The settings of the platform that runs in this home, with all that was picked and made for it; `settings` if none
    does."""
    running = read_state(settings.run_dir) is not None
    return load_settings(settings.run_dir / SETTINGS_FILE, {}) if running else settings


Build = Callable[[Settings, Mapping[str, str]], Sequence[Component]]


class Platform:
    """A platform that is coming up or up. Made by `platform()`."""

    def __init__(
        self,
        settings: Settings,
        parts: Sequence[Component],
        guard: Guard,
        report: Report,
        stop: asyncio.Event,
        launcher: Launcher | None = None,
    ) -> None:
        self.settings = settings
        self._guard, self._launcher = guard, launcher
        self._report = report
        self._stop = stop
        self._running: dict[str, Running] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._components = parts
        self._ready = {component.name: asyncio.Event() for component in self._components}

    def start(self) -> None:
        """Start all components; `ready` and `during` tell what becomes of them."""
        for component in self._components:
            self._keepers[component.name] = asyncio.create_task(self._keep(component), name=component.name)

    async def ready(self, *names: str) -> None:
        """Wait until the named components (all if none is named) serve."""
        for name in names or self._ready:
            await self._ready[name].wait()

    async def during(self, work: Coroutine[None, None, _T]) -> _T | None:
        """Do `work` while the platform is kept up. None if a signal ended it before the work was done;
        StartFailed as soon as a component does not come up or does not stay up, PortInUse if others took its port."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stopped, *self._keepers.values()}, return_when=asyncio.FIRST_COMPLETED)
            for keeper in self._keepers.values():
                if keeper.done():
                    keeper.result()
            return task.result() if task.done() else None
        finally:
            stopped.cancel()
            await _cancel(task)

    async def stop(self, hurry: asyncio.Event) -> None:
        """End all components: those that take requests first, what they rest upon last. With `hurry`, at once."""
        await _cancel(*self._keepers.values())
        for rank in sorted({component.stop_rank for component in self._components}):
            names = [component.name for component in self._components if component.stop_rank == rank]
            await asyncio.gather(*(self._stop_one(name, hurry) for name in names))

    async def _stop_one(self, name: str, hurry: asyncio.Event) -> None:
        running = self._running.pop(name, None)
        if running is not None:
            started_s = time.monotonic()
            self._report(Step(name, "stopping", 0.0))
            await running.stop(STOP_GRACE_S, hurry)
            self._report(Step(name, "stopped", time.monotonic() - started_s))

    async def _keep(self, component: Component) -> None:
        """Start the component; once it serves, start it again whenever it ends. Returns only by StartFailed, or PortInUse."""
        await self._start_one(component)
        self._ready[component.name].set()
        ended_s: deque[float] = deque(maxlen=MOST_RESTARTS)
        while True:
            status = await self._running[component.name].wait()
            now_s = time.monotonic()
            if len(ended_s) == MOST_RESTARTS and now_s - ended_s[0] < RESTARTS_WINDOW_S:
                self._fail(component, f"ended {MOST_RESTARTS + 1} times in a minute")
            ended_s.append(now_s)
            self._report(Step(component.name, "restarting", 0.0, _describe(status)))
            await self._start_one(component)

    async def _start_one(self, component: Component) -> None:
        started_s = time.monotonic()
        self._report(Step(component.name, "starting", 0.0))
        log = self.log(component.name)
        running = await Running.start(component, self.settings.run_dir, log, self._guard, self._launcher)
        self._running[component.name] = running
        ended = asyncio.create_task(running.wait())
        serves = asyncio.ensure_future(component.ready())
        try:
            await asyncio.wait({ended, serves}, timeout=component.start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                self._fail(component, f"did not start: {_describe(ended.result())}")
            if not serves.done():
                raise StartFailed(
                    self._explain(component.name, f"does not serve after {component.start_timeout_s:.0f} s")
                )
            serves.result()
        finally:
            await _cancel(ended, serves)
        self._report(Step(component.name, "ready", time.monotonic() - started_s))

    def log(self, name: str) -> Path:
        """The log of a component."""
        return self.settings.logs_dir / f"{name}.log"

    def _fail(self, component: Component, reason: str) -> NoReturn:
        """The component has ended, and with it the platform does: StartFailed, or PortInUse where that is why."""
        component.check_ports()
        raise StartFailed(self._explain(component.name, reason))

    def _explain(self, name: str, reason: str) -> str:
        log = self.log(name)
        return f"{name} {reason}; the end of {log}:\n{last_lines(log, _LOG_LINES_SHOWN)}"


@contextlib.asynccontextmanager
async def platform(
    settings: Settings, report: Report, *, move_ports: bool = False, secure: bool = False, build: Build = components
) -> AsyncIterator[Platform]:
    """A platform on this machine, starting; everything has ended when the block ends. It consists of what `build` makes
    of the settings and this process's environment.

    AlreadyUp if one runs in this home, PortInUse if a port is taken (with `move_ports`: a port that is not the
    default). With `secure` the parts encrypt what they say, by certificates of the home. The first SIGINT, SIGTERM or
    SIGHUP ends `Platform.during`, a second one makes the ending short.
    """
    with hold_home(settings.run_dir) as lock, assigned_ports(settings, move_defaults=move_ports) as assigned:
        settings = with_prefect_auth(assigned)
        settings = with_certificates(settings, datetime.now(UTC)) if secure else settings
        _prepare_folders(settings)
        write_settings(settings, settings.run_dir / SETTINGS_FILE)
        guard = await Guard.start(lock, lambda status: report(Step("guard", "restarting", 0.0, _describe(status))))
        stop, hurry = asyncio.Event(), asyncio.Event()
        with _signals(stop, hurry):
            write_state(settings.run_dir, UpState(os.getpid(), urls(settings), settings.cluster.nodes))
            try:
                parts = build(settings, os.environ)
                async with _launching(settings, parts, guard) as launcher:
                    running = Platform(settings, parts, guard, report, stop, launcher)
                    try:
                        running.start()
                        yield running
                    finally:
                        await running.stop(hurry)
            finally:
                await guard.close()
                clear_state(settings.run_dir)


@contextlib.asynccontextmanager
async def _launching(settings: Settings, parts: Sequence[Component], guard: Guard) -> AsyncIterator[Launcher | None]:
    """A launcher for those of `parts` that one is for, if any."""
    by_launcher = [part for part in parts if part.arguments]
    if not by_launcher:
        yield None
        return
    config, log = settings.run_dir / SETTINGS_FILE, settings.logs_dir / "launcher.log"
    launcher = await Launcher.start(config, by_launcher[0].environment, settings.run_dir, log)
    guard.watch(launcher.pid)
    forgetting = asyncio.create_task(_forget(launcher, guard))
    try:
        yield launcher
    finally:
        await launcher.close()
        await forgetting


async def _forget(launcher: Launcher, guard: Guard) -> None:
    await launcher.wait()
    guard.forget(launcher.pid)


def _prepare_folders(settings: Settings) -> None:
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    for log in settings.logs_dir.glob("*.log"):
        log.unlink()
    (settings.run_dir / FLOWS_READY_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for signum in taken:
        loop.add_signal_handler(signum, on_signal)
    try:
        yield
    finally:
        for signum in taken:
            loop.remove_signal_handler(signum)


async def _cancel(*tasks: "asyncio.Future[None] | asyncio.Task[_T]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
