"""A platform to measure: the very components a user runs, as processes, in a home of its own. No Prefect: it is never
on the path of a request."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from firsttoken.ports import free_port

STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Platform:
    """Where it answers: `urls` are front ends by degree, `named` are others by their names. `processes` are by name too:
    "scheduler", "node-0", ..., "frontend-" and the front end's degree or name."""

    scheduler_address: str
    urls: dict[int, str]
    home: Path
    named: dict[str, str] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def log(self) -> str:
        """What scheduler, nodes and front ends have written so far, one after the other."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.home.glob("*.log")))

    def start(self, name: str, settings: Mapping[str, Any], *command: str) -> None:
        """A component with settings of its own."""
        path = self.home / f"{name}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(settings))
        self._start(name, [sys.executable, "-m", "firsttoken", *command, "--config", str(path)])

    def kill(self, name: str) -> None:
        """End a component at once."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait(STOP_TIMEOUT_S)

    def again(self, name: str) -> None:
        """Start what was killed as it was started before."""
        self._start(name, self.processes[name].args)

    def _start(self, name: str, command: Any) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@contextlib.contextmanager
def run_platform(
    home: Path,
    store_url: str,
    nodes: int,
    degrees: Sequence[int],
    ready_s: float = 180.0,
    node: Mapping[str, str | int] | None = None,
    frontends: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Iterator[Platform]:
    """Scheduler, nodes and a front end per degree until the block ends. TimeoutError if they do not come up.

    `node` are settings of all nodes by their keys; `frontends` are more front ends by name, with settings of theirs by
    section. Without a front end nobody waits for the nodes.
    """
    ports = {"scheduler_port": free_port(), "dashboard_port": free_port()}
    common = {"home": str(home), "store": {"url": store_url}, "cluster": ports, "node": dict(node or {})}
    kinds: dict[str, Mapping[str, Any]] = {str(degree): {"frontend": {"degree": degree}} for degree in degrees}
    kinds |= frontends or {}
    urls = {kind: free_port() for kind in kinds}
    platform = Platform(
        f"tcp://127.0.0.1:{ports['scheduler_port']}",
        {degree: f"http://127.0.0.1:{urls[str(degree)]}" for degree in degrees},
        home,
        {name: f"http://127.0.0.1:{urls[name]}" for name in frontends or {}},
    )
    try:
        platform.start("scheduler", common, "scheduler")
        for index in range(nodes):
            platform.start(f"node-{index}", common, "node", "--name", f"node-{index}")
        for kind, own in kinds.items():
            frontend = {"port": urls[kind], "policy": "fixed", "keep_alive_s": 1.0, **own.get("frontend", {})}
            platform.start(f"frontend-{kind}", {**common, **own, "frontend": frontend}, "frontend")
        _wait_ready(platform, [f"http://127.0.0.1:{port}" for port in urls.values()], nodes, time.monotonic() + ready_s)
        yield platform
    finally:
        _end(platform)


def _end(platform: Platform) -> None:
    processes = platform.processes.values()
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
        found = _status(url)
        waiting = [
            each for each in found["nodes"] if each["stage_processes"]["idle"] and not each["stage_processes"]["busy"]
        ]
        if len(waiting) == nodes and not found["replicas"]:
            return
        time.sleep(0.1)
    raise TimeoutError("the platform did not come to rest")


def _status(url: str) -> Any:
    try:
        return httpx.get(f"{url}/admin/status", timeout=10).json()
    except httpx.TransportError:
        return {"nodes": [], "replicas": []}


def _up(url: str, nodes: int) -> bool:
    """Whether every node has a stage process, be it that a replica has it already."""
    return len([each for each in _status(url)["nodes"] if any(each["stage_processes"].values())]) == nodes


def _wait_ready(platform: Platform, urls: Sequence[str], nodes: int, until_s: float) -> None:
    for url in urls:
        while not _up(url, nodes):
            ended = [name for name, process in platform.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > until_s:
                raise TimeoutError(
                    f"the platform did not come up: {ended or 'it is not ready in time'}\n{platform.log()}"
                )
            time.sleep(0.1)
