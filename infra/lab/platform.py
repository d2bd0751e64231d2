"""The platform on the hosts of a lab: store, scheduler and front ends on hosts of their own, one node a host.

The very components that a user runs, by the command line. No Prefect: it is never on the path of a request.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.lab.disks import Disks, limit_disks
from infra.lab.network import LabError, Network

BUCKET = "models"
STORE, FRONT = "store", "front"
STORE_PORT, SCHEDULER_PORT, FRONTEND_PORT = 9000, 8786, 8000
LEAST_BYTES_PER_S, MOST_BYTES_PER_S = 1.0, 1e12
_KEY, _SECRET = "lab-key", "lab-secret"


@dataclass(frozen=True)
class Lab:
    """Where everything answers, as seen from the caller; `urls` are front ends by degree, `planner` is one that decides by
    itself, "" if there is none, `named` are others by their names."""

    network: Network
    folder: Path
    nodes: tuple[str, ...]
    store_options: Mapping[str, Any]
    scheduler_address: str
    urls: Mapping[int, str]
    disks: Disks = field(default_factory=lambda: Disks({}))
    planner: str = ""
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def store_url(self) -> str:
        return f"s3://{BUCKET}"

    def log(self, name: str) -> str:
        """The end of what a component has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def run_lab(
    folder: Path,
    nodes: int,
    degrees: Sequence[int],
    node_bytes_per_s: float | None,
    store_bytes_per_s: float | None = None,
    node_settings: Mapping[str, Any] | None = None,
    policy: str = "fixed",
    settings_of: Mapping[str, Mapping[str, Any]] | None = None,
    ready_s: float = 120.0,
    disk_bytes_per_s: float | None = None,
    planner: bool = False,
    frontends: Mapping[str, Mapping[str, Any]] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Lab]:
    """A lab whose nodes have joined, until the block ends. The bucket's folder is `folder`/buckets/models.

    `node_bytes_per_s` and `store_bytes_per_s` are the rates of their cards, each way, `disk_bytes_per_s` is that of each
    node's disk, as it is read; None is unlimited. A node computes with its part of this machine's cores. `node_settings`
    are every node's settings [node], `settings_of` more of them for single nodes, by name. With `planner` there is one more
    front end, of the policy "planned"; `frontends` are still more by name, with settings [frontend] of theirs.
    `models` are all front ends' settings [models], by the models' names.
    LabError if it cannot be built or does not come up.
    """
    names = tuple(f"node-{index}" for index in range(nodes))
    threads = max(1, len(os.sched_getaffinity(0)) // nodes)
    rates = dict.fromkeys(names, node_bytes_per_s) | {STORE: store_bytes_per_s}
    (folder / "buckets" / BUCKET).mkdir(parents=True, exist_ok=True)
    limited = {host: rate for host, rate in rates.items() if rate is not None}
    with (
        limit_disks(folder, names, disk_bytes_per_s) as disks,
        Network.build([STORE, FRONT, *names], limited) as network,
    ):
        at = network.addresses
        lab = Lab(
            network, folder, names,
            {"key": _KEY, "secret": _SECRET, "endpoint_url": f"http://{at[STORE]}:{STORE_PORT}"},
            f"tcp://{at[FRONT]}:{SCHEDULER_PORT}",
            {degree: f"http://{at[FRONT]}:{FRONTEND_PORT + index}" for index, degree in enumerate(degrees)},
            disks,
            f"http://{at[FRONT]}:{FRONTEND_PORT + len(degrees)}" if planner else "",
            {
                name: f"http://{at[FRONT]}:{FRONTEND_PORT + len(degrees) + planner + index}"
                for index, name in enumerate(frontends or {})
            },
        )  # fmt: skip
        _start_store(lab)
        _start(lab, FRONT, "scheduler", {}, "scheduler")
        for name in names:
            section = {"threads": threads, **(node_settings or {}), **(settings_of or {}).get(name, {})}
            _start(lab, name, name, {"node": section}, "node", "--name", name)
        kinds: list[tuple[str, Mapping[str, Any]]] = [(str(d), {"degree": d, "policy": policy}) for d in degrees]
        kinds += [("planner", {"policy": "planned"})] if planner else []
        kinds += (frontends or {}).items()
        for index, (kind, own) in enumerate(kinds):
            frontend = {"host": at[FRONT], "port": FRONTEND_PORT + index, "keep_alive_s": 1.0, **own}
            _start(lab, FRONT, f"frontend-{kind}", {"frontend": frontend, "models": dict(models or {})}, "frontend")
        _wait_ready(lab, time.monotonic() + ready_s)
        yield lab


def settled(lab: Lab, url: str) -> bool:
    """Whether no replica is up and every node has a stage process waiting."""
    try:
        status = httpx.get(f"{url}/admin/status", timeout=10).json()
    except httpx.TransportError:
        return False
    resting = [n for n in status["nodes"] if n["stage_processes"]["idle"] and not n["stage_processes"]["busy"]]
    return len(resting) == len(lab.nodes) and not status["replicas"]


def parse_rate(text: str) -> float:
    """Bytes per second of "200mbit", "25MB" or "1gbit", within what a card can be. ValueError for anything else."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)\s*([kmg]?)(bit|b)", text.strip().lower().removesuffix("/s"))
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is not a rate: write 200mbit or 25MB")
    scale = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2]]
    rate = float(match[1]) * scale / (8 if match[3] == "bit" else 1)
    if not LEAST_BYTES_PER_S <= rate <= MOST_BYTES_PER_S:
        raise ValueError(f"{text!r} is not a rate that a card can have: write 200mbit or 25MB")
    return rate


def _start_store(lab: Lab) -> None:
    environment = os.environ | {
        "NANIO_DATA_DIR": str(lab.folder / "buckets"), "NANIO_ACCESS_KEY": _KEY, "NANIO_SECRET_KEY": _SECRET,
    }  # fmt: skip
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "nanio.app:build_app", "--no-access-log",
        "--host", lab.network.addresses[STORE], "--port", str(STORE_PORT),
    ]  # fmt: skip
    with (lab.folder / "store.log").open("wb") as log:
        lab.network.start(STORE, command, log.fileno(), environment)


def _start(lab: Lab, host: str, name: str, sections: Mapping[str, Mapping[str, Any]], *command: str) -> None:
    """A component with a settings file of its own."""
    at = lab.network.addresses
    settings = {
        "home": str(lab.folder / host),
        "store": {"url": lab.store_url, "options": dict(lab.store_options)},
        "cluster": {"host": at[host], "scheduler_host": at[FRONT], "scheduler_port": SCHEDULER_PORT},
        **sections,
    }
    (lab.folder / host).mkdir(exist_ok=True)
    path = lab.folder / f"{name}.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(settings))
    argv = [sys.executable, "-m", "firsttoken", *command, "--config", str(path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FIRSTTOKEN_")}
    with (lab.folder / f"{name}.log").open("wb") as log:
        lab.network.start(host, argv, log.fileno(), environment, lab.disks.prefix(host))


def _wait_ready(lab: Lab, until_s: float) -> None:
    for url in filter(None, (*lab.urls.values(), lab.planner, *lab.named.values())):
        while not settled(lab, url):
            ended = [p for p in lab.network.processes if p.poll() is not None]
            if ended or time.monotonic() > until_s:
                why = _ended(ended[0]) if ended else "it is not ready in time"
                raise LabError(f"the lab did not come up: {why}\n{_last_lines(lab)}")
            time.sleep(0.2)


def _last_lines(lab: Lab) -> str:
    """The end of every log, since the caller may remove the folder."""
    ends = {path.stem: lab.log(path.stem).splitlines()[-1:] for path in sorted(lab.folder.glob("*.log"))}
    return "\n".join(f"{name}: {''.join(end) or '(silent)'}" for name, end in ends.items())


def _ended(process: "subprocess.Popen[bytes]") -> str:
    return f"{' '.join(map(str, process.args))} ended with status {process.returncode}"  # type: ignore[arg-type]
