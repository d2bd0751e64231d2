"""A whole platform as a command of its own, on free ports, in a home that nobody else has."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firsttoken.ports import assigned_ports
from firsttoken.settings import load_settings
from tests.firsttoken.processes import MARK, marked

COMPONENTS = {"scheduler", "node-1", "frontend", "prefect", "flows"}


@contextmanager
def environment_in(folder: Path) -> Iterator[dict[str, str]]:
    """A home in the folder, and a mark on every process that comes of it: none of them outlives the block."""
    mark = uuid.uuid4().hex
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FIRSTTOKEN_")}
    told = {
        "FIRSTTOKEN_HOME": str(folder / "home"),
        "FIRSTTOKEN_CLUSTER__NODES": "1",
        "FIRSTTOKEN_NODE__DRAM_BYTES": "64MiB",
        "FIRSTTOKEN_FRONTEND__PORT": "0",
        "FIRSTTOKEN_PREFECT__PORT": "0",
        "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": "0",
        "FIRSTTOKEN_CLUSTER__DASHBOARD_PORT": "0",
    }
    try:
        yield {**inherited, MARK: mark, **told}
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def on_the_same_ports(*environments: dict[str, str]) -> list[dict[str, str]]:
    """These, but that all of them name the same ports, which are free."""
    named = {name: value for name, value in environments[0].items() if name.startswith("FIRSTTOKEN_")}
    with assigned_ports(load_settings(environment=named)) as settings:
        ports = {
            "FRONTEND__PORT": settings.frontend.port,
            "PREFECT__PORT": settings.prefect.port,
            "CLUSTER__SCHEDULER_PORT": settings.cluster.scheduler_port,
            "CLUSTER__DASHBOARD_PORT": settings.cluster.dashboard_port,
        }
    return [each | {f"FIRSTTOKEN_{name}": str(port) for name, port in ports.items()} for each in environments]


def firsttoken(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    command = [sys.executable, "-m", "firsttoken", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def starting(environment: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    """A platform that has just been told to come up."""
    command = [sys.executable, "-m", "firsttoken", "up", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def up(environment: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    """A platform that says that all its components are ready."""
    return ready(starting(environment, *options))


def ready(process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
    """The platform once it has said so."""
    assert process.stderr is not None
    waiting, said = set(COMPONENTS), []
    while waiting and (line := process.stderr.readline()):
        said.append(line)
        waiting -= {name for name in waiting if line.startswith(f"{name} ready")}
    assert not waiting, "".join(said)
    return process
