"""A real cluster on loopback: a Dask scheduler and nodes, each in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import httpx
import psutil

from cluster.wire.encryption import Tls
from firsttoken.ports import free_port
from schedules.objectives import Objectives
from tests.asking import get
from tests.told import frontend_config, node_config, objectives_of

START_DEADLINE_S = 100.0
STOP_DEADLINE_S = 20.0
_END = "import sys; from cluster.node.parentage import end_with; end_with(int(sys.argv[2])); "
_TLS = "from cluster.wire.encryption import Tls; config['tls'] = Tls(**config['tls']) if config['tls'] else None; "
_SCHEDULER = (
    "import json, sys; from cluster.scheduler import run_scheduler; config = json.loads(sys.argv[1]); "
    f"{_TLS}run_scheduler('127.0.0.1', config['port'], 0, config['tls'])"
)  # fmt: skip
_FRONTEND = (
    "import json, sys; from serving.app import FrontendConfig, run_frontend; "
    "from schedules.objectives import Objectives; config = json.loads(sys.argv[1]); "
    "config['objectives'] = Objectives(**config['objectives']); "
    "config['models'] = {name: Objectives(**wanted) for name, wanted in config['models'].items()}; "
    f"{_TLS}run_frontend(FrontendConfig(**config))"
)  # fmt: skip
_NODE = (
    "import json, sys; from cluster.node.main import NodeConfig, run_node; config = json.loads(sys.argv[1]); "
    f"{_TLS}run_node(NodeConfig(**config))"
)  # fmt: skip


@dataclass
class RealCluster:
    """Where it answers, what its nodes read from, and its processes by name."""

    scheduler_address: str
    store_url: str
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]]
    url: str = ""
    tls: Tls | None = None

    def start_scheduler(self) -> None:
        """The scheduler, always at the same address."""
        config = {"port": int(self.scheduler_address.rpartition(":")[2]), "tls": self._tls}
        self._start("scheduler", _SCHEDULER, json.dumps(config))

    def await_scheduler(self) -> None:
        """Wait until it listens: clients give up sooner than a busy machine starts it."""
        scheduler, port = self.processes["scheduler"], int(self.scheduler_address.rpartition(":")[2])
        deadline_s = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline_s and scheduler.poll() is None:
            sockets = psutil.Process(scheduler.pid).net_connections("tcp")
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets):
                return
            time.sleep(0.05)
        raise TimeoutError(f"the scheduler does not listen: {self.log('scheduler')}")

    def start_node(self, name: str, **overrides: object) -> None:
        """One more node; `overrides` are fields of NodeConfig."""
        config = node_config(
            name=name,
            scheduler_address=self.scheduler_address,
            store_url=self.store_url,
            ssd_dir=str(self.folder / name / "ssd"),
            tls=self.tls,
        )
        self._start(name, _NODE, json.dumps({**asdict(config), **overrides}))

    def start_frontend(
        self,
        name: str = "frontend",
        timeout_s: float = START_DEADLINE_S,
        models: Mapping[str, Mapping[str, object]] | None = None,
        policy: str = "fixed",
        **overrides: object,
    ) -> str:
        """A front end over the cluster; its URL, once it answers. `overrides` are fields of Objectives (those of `models`
        for one model alone) and of FrontendConfig."""
        wanted = {field.name: overrides.pop(field.name) for field in fields(Objectives) if field.name in overrides}
        port = free_port()
        config = frontend_config(
            port=port,
            scheduler_address=self.scheduler_address,
            store_url=self.store_url,
            policy=policy,
            objectives=objectives_of(**wanted),
            tls=self.tls,
            models={model: objectives_of(**{**wanted, **own}) for model, own in (models or {}).items()},
        )
        self._start(name, _FRONTEND, json.dumps({**asdict(config), **overrides}))
        url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            with contextlib.suppress(httpx.TransportError):
                get(f"{url}/v1/models", timeout=timeout_s)
                return url
            if self.processes[name].poll() is not None:
                break
            time.sleep(0.1)
        raise TimeoutError(f"the front end does not answer: {self.log(name)}")

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to a process of the cluster and wait until it is dead."""
        process = self.processes.pop(name)
        process.send_signal(signum)
        process.wait(STOP_DEADLINE_S)

    def ended(self, name: str) -> int:
        """Wait until a process of the cluster has ended by itself; its exit status. It stays ours until then."""
        status = self.processes[name].wait(STOP_DEADLINE_S)
        del self.processes[name]
        return status

    def stages(self, name: str) -> list[psutil.Process]:
        """A node's stage processes, waiting or busy."""
        return _called(self.processes[name].pid, "stage")

    def zygotes(self, name: str) -> list[psutil.Process]:
        """A node's zygote; none while it is replaced."""
        return _called(self.processes[name].pid, "zygote")

    def log(self, name: str) -> str:
        """What the process has written so far."""
        return (self.folder / f"{name}.log").read_text()

    @property
    def _tls(self) -> dict[str, str] | None:
        return asdict(self.tls) if self.tls is not None else None

    def _start(self, name: str, code: str, argument: str) -> None:
        """A process that does not outlive this one: what ends a test that hangs ends its worker, without any clean-up."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", f"{_END}{code}", argument, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_env(),
            )


@contextlib.contextmanager
def run_cluster(
    folder: Path, store_url: str, nodes: int, tls: Tls | None = None, **overrides: object
) -> Iterator[RealCluster]:
    """A cluster of `nodes` nodes called node-0, ... until the block ends; then nothing of it runs."""
    scheme = "tcp" if tls is None else "tls"
    cluster = RealCluster(f"{scheme}://127.0.0.1:{free_port()}", store_url, folder, {}, tls=tls)
    try:
        cluster.start_scheduler()
        for index in range(nodes):
            cluster.start_node(f"node-{index}", **overrides)
        cluster.await_scheduler()
        yield cluster
    finally:
        for process in cluster.processes.values():
            process.send_signal(signal.SIGTERM)
        hung = [name for name, process in cluster.processes.items() if not _ends(process)]
        if hung and sys.exc_info()[0] is None:
            raise TimeoutError(f"{', '.join(hung)} did not end within {STOP_DEADLINE_S:.0f} s of SIGTERM")


def _called(parent: int, name: str) -> list[psutil.Process]:
    """The children that `ps` shows under this name, but for those that are dead."""
    found = []
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends by itself; in the end it is dead."""
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "default"}
