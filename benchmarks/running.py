"""A platform to measure: the very components a user runs, as processes, in a home of its own. No Prefect: it is never
on the path of a request."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from firsttoken.ports import free_port

STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Platform:
    """Where it answers: one front end for each degree."""

    scheduler_address: str
    urls: dict[int, str]
    home: Path

    def log(self) -> str:
        """What scheduler, nodes and front ends have written so far, one after the other."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.home.glob("*.log")))


@contextlib.contextmanager
def run_platform(
    home: Path,
    store_url: str,
    nodes: int,
    degrees: Sequence[int],
    ready_s: float = 90.0,
    node: Mapping[str, str | int] | None = None,
) -> Iterator[Platform]:
    """Scheduler, nodes and a front end per degree until the block ends. TimeoutError if they do not come up.

    `node` are settings of all nodes by their keys. Without a front end nobody waits for the nodes.
    """
    processes: list[subprocess.Popen[bytes]] = []
    scheduler_port, dashboard_port = free_port(), free_port()
    ports = {degree: free_port() for degree in degrees}
    common = f'home = "{home}"\n[store]\nurl = "{store_url}"\n'
    cluster = f"[cluster]\nscheduler_port = {scheduler_port}\ndashboard_port = {dashboard_port}\n"
    cluster += "".join(["[node]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in (node or {}).items())])

    def start(config: str, text: str, *command: str) -> None:
        path = home / config
        path.write_text(text)
        with (home / f"{config}-{len(processes)}.log").open("wb") as log:
            argv = [sys.executable, "-m", "firsttoken", *command, "--config", str(path)]
            processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    try:
        start("cluster.toml", common + cluster, "scheduler")
        for index in range(nodes):
            start("cluster.toml", common + cluster, "node", "--name", f"node-{index}")
        for degree, port in ports.items():
            frontend = f'[frontend]\nport = {port}\ndegree = {degree}\npolicy = "fixed"\nkeep_alive_s = 1.0\n'
            start(f"frontend-{degree}.toml", common + cluster + frontend, "frontend")
        urls = {degree: f"http://127.0.0.1:{port}" for degree, port in ports.items()}
        _wait_ready(list(urls.values()), nodes, time.monotonic() + ready_s)
        yield Platform(f"tcp://127.0.0.1:{scheduler_port}", urls, home)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def settle(url: str, nodes: int, until_s: float) -> None:
    """Wait until no replica is up and every node has a stage process waiting."""
    while time.monotonic() < until_s:
        with contextlib.suppress(httpx.TransportError):
            status = httpx.get(f"{url}/admin/status", timeout=10).json()
            waiting = [n for n in status["nodes"] if n["stage_processes"]["idle"] and not n["stage_processes"]["busy"]]
            if len(waiting) == nodes and not status["replicas"]:
                return
        time.sleep(0.1)
    raise TimeoutError("the platform did not come to rest")


def _wait_ready(urls: Sequence[str], nodes: int, until_s: float) -> None:
    for url in urls:
        settle(url, nodes, until_s)
