"""From `firsttoken up` to a platform that serves, and what one that idles takes of the machine.

    python benchmarks/up.py [--json] [--repeats N] [--idle-s S]

Four nodes, scheduler, front end, Prefect and flows come up in a home of their own, as `make up` starts them: until all of
it is ready, and until the first token of a request that is then sent at once, for a model that nobody has loaded. The
first start is told apart: its home is new (a database is made, nothing was measured), and what the machine's page cache
lacked was read. All others find that home. CPU seconds are counted until the platform is ready; memory is PSS, so
that pages which processes share count once; both by the log that a process writes to, which is its component's.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cold_start import ttft
from benchmarks.model import NAME, published_smollm2
from benchmarks.report import Result, parser, report
from firsttoken.ports import free_port

GOAL_S = 15.0
START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 60.0
REST_S = 10.0
"""What nodes do behind their start, which is to measure and to make memory real, is over then."""
SETTLED = "Ctrl-C stops it."
SUPERVISOR = "supervisor"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Start:
    """One start: seconds to ready, by component too, and to the first token; CPU seconds until ready by component."""

    ready_s: float
    first_token_s: float
    ready_by_component_s: Mapping[str, float]
    cpu_by_component_s: Mapping[str, float]


@dataclass(frozen=True)
class Idle:
    """What a platform takes that nobody calls, by component: bytes, and the share of a core."""

    pss_by_component_bytes: Mapping[str, int]
    cores_by_component: Mapping[str, float]
    processes: int


class Up:
    """A platform that `firsttoken up` brings up in `home`."""

    def __init__(self, home: Path, store_url: str) -> None:
        ports = {name: free_port() for name in ("FRONTEND__PORT", "PREFECT__PORT", "CLUSTER__DASHBOARD_PORT")}
        ports["CLUSTER__SCHEDULER_PORT"] = free_port()
        settings = {"HOME": str(home), "STORE__URL": store_url, **{name: str(port) for name, port in ports.items()}}
        self.url = f"http://127.0.0.1:{ports['FRONTEND__PORT']}"
        self._logs = home / "logs"
        self._started_s = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "firsttoken", "up"],
            env=os.environ | {f"FIRSTTOKEN_{name}": value for name, value in settings.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_ready(self) -> dict[str, float]:
        """Seconds until each component said that it is ready, by name. RuntimeError if the platform does not come up."""
        assert self.process.stderr is not None
        found, said = {}, []
        for line in self.process.stderr:
            if line.strip() == SETTLED:
                return found
            component, _, rest = line.partition(" ")
            if rest.startswith("ready after"):
                found[component] = self.seconds()
            said.append(line)
        raise RuntimeError(f"the platform did not come up: {''.join(said)}")

    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._started_s

    def by_component(self, of: Callable[[int], float]) -> dict[str, float]:
        """What `of` says of each process, summed up by component."""
        sums: dict[str, float] = {}
        for pid, component in self.processes().items():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                sums[component] = sums.get(component, 0) + of(pid)
        return sums

    def processes(self) -> dict[int, str]:
        """The component of each process of the platform; what writes to no component's log is the supervisor's."""
        found = {self.process.pid: SUPERVISOR}
        children = _children()
        waiting = [self.process.pid]
        while waiting:
            for pid in children.get(waiting.pop(), ()):
                with contextlib.suppress(OSError):
                    log = Path(os.readlink(f"/proc/{pid}/fd/2"))
                    found[pid] = log.stem if log.parent == self._logs else SUPERVISOR
                    waiting.append(pid)
        return found

    def end(self) -> None:
        """Have it end in order."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    return children


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ... (see proc(5), field 3 on)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    return sum(map(int, _stat(pid)[11:15])) / _TICKS_PER_S


def pss_bytes(pid: int) -> int:
    """A process's memory, what it shares divided by those that share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@contextlib.contextmanager
def coming_up(home: Path, store_url: str) -> Iterator[Up]:
    """A platform that is being started; it has ended when the block ends."""
    up = Up(home, store_url)
    try:
        yield up
    finally:
        up.end()


def measure_start(up: Up) -> Start:
    """Wait until it is ready, then ask."""
    ready = up.until_ready()
    ready_s, spent_s = up.seconds(), up.by_component(cpu_s)
    ttft(up.url, NAME)
    return Start(ready_s, up.seconds(), ready, spent_s)


def measure_idle(up: Up, seconds: float) -> Idle:
    """Once no replica is up, a stage process waits on every node, and some time has passed."""
    _settle(up.url)
    time.sleep(REST_S)
    before, since_s = up.by_component(cpu_s), time.monotonic()
    time.sleep(seconds)
    after, passed_s = up.by_component(cpu_s), time.monotonic() - since_s
    cores = {component: (spent - before.get(component, 0.0)) / passed_s for component, spent in after.items()}
    pss = {component: int(size) for component, size in up.by_component(pss_bytes).items()}
    return Idle(pss, cores, len(up.processes()))


def _settle(url: str) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        status = httpx.get(f"{url}/admin/status", timeout=10).json()
        processes = [node["stage_processes"] for node in status["nodes"]]
        if not status["replicas"] and all(each["idle"] and not each["busy"] for each in processes):
            return
        time.sleep(0.2)
    raise TimeoutError("the platform did not come to rest")


def run(repeats: int, idle_s: float) -> tuple[Sequence[Start], Idle]:
    """The first start and `repeats` more in the same home; what the last platform takes before anybody has called it."""
    store_url, _ = published_smollm2()
    starts = []
    with tempfile.TemporaryDirectory(prefix="firsttoken-up-") as home:
        for _ in range(repeats + 1):
            with coming_up(Path(home), store_url) as up:
                starts.append(measure_start(up))
                print(f"ready after {starts[-1].ready_s:.1f} s", file=sys.stderr)
        with coming_up(Path(home), store_url) as up:
            up.until_ready()
            idle = measure_idle(up, idle_s)
    return starts, idle


def results(starts: Sequence[Start], idle: Idle) -> list[Result]:
    """One figure each; the first start stands by itself."""
    first, *later = starts
    ready, token = [s.ready_s for s in later], [s.first_token_s for s in later]
    spent = [sum(s.cpu_by_component_s.values()) for s in later]
    return [
        Result("up_ready_s", statistics.median(ready), "s", "lower", GOAL_S),
        Result("up_ready_best_s", min(ready), "s", "lower", GOAL_S),
        Result("up_ready_new_home_s", first.ready_s, "s", "lower"),
        Result("up_first_token_s", statistics.median(token), "s", "lower"),
        Result("up_cpu_s", statistics.median(spent), "s", "lower"),
        Result("idle_pss_bytes", sum(idle.pss_by_component_bytes.values()), "B", "lower"),
        Result("idle_cores", sum(idle.cores_by_component.values()), "cores", "lower"),
        Result("idle_processes", idle.processes, "", "lower"),
    ]


def show_components(start: Start, idle: Idle) -> None:
    """A row per component: of the fastest start and of the platform that idles."""
    table = Table("component", "ready after (s)", "CPU until ready (s)", "idle PSS (MB)", "idle, of a core")
    for name in sorted(start.cpu_by_component_s, key=lambda name: -start.cpu_by_component_s[name]):
        ready_s = start.ready_by_component_s.get(name)
        table.add_row(
            name,
            "" if ready_s is None else f"{ready_s:.1f}",
            f"{start.cpu_by_component_s[name]:.1f}",
            f"{idle.pss_by_component_bytes.get(name, 0) / 1e6:.0f}",
            f"{idle.cores_by_component.get(name, 0.0):.3f}",
        )
    Console().print(table)


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=3, help="starts beside the first one")
    options.add_argument(
        "--idle-s", type=float, default=10.0, help="for how long the platform is watched while it idles"
    )
    told = options.parse_args()
    starts, idle = run(max(1, told.repeats), told.idle_s)
    found = results(starts, idle)
    fastest = min(starts[1:], key=lambda start: start.ready_s)
    more = {"starts": [vars(start) for start in starts], "idle": vars(idle)}
    report("up", found, told.json, **json.loads(json.dumps(more)))
    if not told.json:
        show_components(fastest, idle)
    return 0 if found[0].value < GOAL_S else 1


if __name__ == "__main__":
    sys.exit(main())
