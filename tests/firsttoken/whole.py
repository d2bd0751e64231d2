"""A whole platform as a command of its own, on free ports, in a home that nobody else has."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def firsttoken(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    command = [sys.executable, "-m", "firsttoken", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def up(environment: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    """A platform that says that all its components are ready."""
    command = [sys.executable, "-m", "firsttoken", "up", *options]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    waiting, said = set(COMPONENTS), []
    while waiting and (line := process.stderr.readline()):
        said.append(line)
        waiting -= {name for name in waiting if line.startswith(f"{name} ready")}
    assert not waiting, "".join(said)
    return process
