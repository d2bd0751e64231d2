"""The launcher, for real, seen by its supervisor: what it forks is what the command would have started, and outlives it."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from firsttoken import ready
from firsttoken.launching import UNKNOWN_STATUS, Launched, Launcher, NotLaunched
from firsttoken.process import Component, Guard, Running
from firsttoken.settings import Settings, load_settings, write_settings
from tests.firsttoken.processes import MARK, marked

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def mark() -> str:
    """In the environment of the launcher, and so of all that it makes."""
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a home in which no scheduler runs: a node there waits for one."""
    settings = load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path_factory.mktemp("home"))})
    settings.run_dir.mkdir(parents=True)
    write_settings(settings, settings.run_dir / "settings.json")
    return settings


async def launcher_of(settings: Settings, mark: str) -> Launcher:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", MARK: mark}
    log = settings.run_dir / "launcher.log"
    return await Launcher.start(settings.run_dir / "settings.json", environment, settings.run_dir, log)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher(settings: Settings, mark: str) -> AsyncIterator[Launcher]:
    """One for all: it imports for some seconds."""
    launcher = await launcher_of(settings, mark)
    yield launcher
    await launcher.close()
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


async def launch(
    launcher: Launcher, log: Path, *arguments: str, watch: Callable[[int], None] = lambda _pid: None
) -> Launched:
    with log.open("ab") as output:
        return await launcher.launch(arguments, output.fileno(), watch)


def node(settings: Settings, name: str) -> tuple[str, ...]:
    return ("node", "--name", name, "--config", str(settings.run_dir / "settings.json"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 the event is in another process
            await asyncio.sleep(0.02)


async def test_it_does_what_the_command_does_and_its_status_is_told(launcher: Launcher, tmp_path: Path) -> None:
    log = tmp_path / "log"
    watched: list[int] = []
    version = await launch(launcher, log, "version", watch=watched.append)
    assert (await version.wait(), watched) == (0, [version.pid])
    assert "firsttoken " in log.read_text()
    assert await (await launch(launcher, log, "node", "--name", "../x")).wait() == 2
    assert "a name has letters" in log.read_text()
    assert len(os.listdir(f"/proc/{launcher.pid}/task")) == 1, (
        "no other thread survives a fork, and what it holds stays locked"
    )


async def test_a_node_has_a_session_a_line_in_ps_and_a_zygote_of_its_own(
    launcher: Launcher, settings: Settings, tmp_path: Path, mark: str
) -> None:
    launched = await launch(launcher, tmp_path / "log", *node(settings, "alone"))

    def shown() -> list[str]:
        return [command for pid, command in marked(mark).items() if os.getsid(pid) == launched.pid]

    await until(lambda: any("-m cluster.node.zygote" in command for command in shown()))
    assert os.getsid(launched.pid) == launched.pid
    assert any(f"{sys.executable} -m firsttoken node --name alone" in command for command in shown())
    launched.send_signal(signal.SIGINT)
    assert await launched.wait() == 0
    assert shown() == []
    with pytest.raises(ProcessLookupError):
        launched.send_signal(signal.SIGINT)


async def test_what_nobody_would_end_does_nothing(launcher: Launcher, tmp_path: Path, mark: str) -> None:
    """The supervisor dies when something has just been forked, and has told no guard of it."""
    told: list[int] = []

    def die(pid: int) -> None:
        told.append(pid)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await launch(launcher, tmp_path / "log", "version", watch=die)
    await until(lambda: told[0] not in marked(mark))
    assert (tmp_path / "log").read_text() == ""


async def test_what_is_killed_says_by_what(launcher: Launcher, settings: Settings, tmp_path: Path) -> None:
    launched = await launch(launcher, tmp_path / "log", *node(settings, "killed"))
    os.kill(launched.pid, signal.SIGKILL)
    assert await launched.wait() == -signal.SIGKILL


async def test_a_launcher_that_is_closed_while_it_imports_makes_nothing(
    settings: Settings, mark: str, tmp_path: Path
) -> None:
    launcher = await launcher_of(settings, mark)
    waiting = asyncio.create_task(launch(launcher, tmp_path / "log", "version"))
    await asyncio.sleep(0.1)
    await launcher.close()
    with pytest.raises(NotLaunched):
        await waiting
    with pytest.raises(NotLaunched):
        await launch(launcher, tmp_path / "log", "version")
    assert launcher.pid not in marked(mark)


async def test_when_the_launcher_is_killed_its_nodes_live_and_the_next_is_had_by_its_command(
    launcher: Launcher, settings: Settings, mark: str, tmp_path: Path
) -> None:
    """Last of all: there is no launcher after it."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    guard = await Guard.start(lock, lambda _status: None)
    there = tmp_path / "there"
    component = Component(
        "a",
        (sys.executable, "-S", "-c", f"import pathlib, time; pathlib.Path({str(there)!r}).touch(); time.sleep(600)"),
        {**os.environ, MARK: mark},
        partial(ready.file_there, there),
        start_timeout_s=20,
        stop_rank=0,
        arguments=node(settings, "orphan"),
    )
    start = partial(Running.start, component, tmp_path, tmp_path / "log", guard, launcher)
    orphan = await start()
    assert not there.exists()
    os.kill(launcher.pid, signal.SIGKILL)
    await launcher.wait()
    await asyncio.sleep(0)
    running = await start()
    await component.ready()
    os.kill(orphan.pid, 0)
    await orphan.stop(20, asyncio.Event())
    assert await orphan.wait() == UNKNOWN_STATUS
    await running.stop(0, asyncio.Event())
    await guard.close()
    os.close(lock)
