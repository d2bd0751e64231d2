"""What the simulator costs: CPU time and memory of the product's own brain against the world, from 10 to 1,000 nodes.

    python benchmarks/simulator.py [--json] [--quick] [--seed 1]

The workload is that of `benchmarks.simulator_workload`: two models a node, two hours of requests by Zipf's law (skew 1), each
model's in bursts (CV 4), about 139 requests a second on 500 nodes, which is a million in all; the cluster is empty at first.
Every figure is of a process of its own, which plays one trace on one core: CPU time of playing alone, and the most memory
that the process ever had. Growth is the cost of a request at the larger size over that at the smaller one, in a quarter of
an hour of the same load for each node or, on 500 nodes, for each model: who is asked for seldom is cold, and would be the
colder the more models share a load. One small trace is played twice and comes to the same, to the last bit.
"""

import hashlib
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Result, parser, report
from benchmarks.simulator_workload import HOUR_S, MODELS, NODES, REQUESTS, workload
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.play import play
from serving.collecting import collect_seldom, keep_what_is_there

GOAL_S, GOAL_GIB = 90.0, 4.0
FULL_S, GROWTH_S = 2 * HOUR_S, HOUR_S / 4
PER_NODE_S = REQUESTS / FULL_S / NODES
"""Requests a second for each node."""
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Size:
    """What is played."""

    nodes: int
    models: int
    duration_s: float
    requests_per_s: float

    @property
    def requests(self) -> int:
        return round(self.duration_s * self.requests_per_s)


@dataclass(frozen=True)
class Played:
    """What it took: CPU seconds, and GiB at most; what came of it, as `digest` has it of every request and start."""

    cpu_s: float
    peak_gib: float
    requests: int
    cold: float
    unserved: float
    starts: int
    events: int
    digest: str

    @property
    def us(self) -> float:
        """CPU time of a request."""
        return self.cpu_s / self.requests * 1e6


def _alike(nodes: int, duration_s: float = GROWTH_S) -> Size:
    """As much of everything for each node."""
    return Size(nodes, 2 * nodes, duration_s, PER_NODE_S * nodes)


def _digest(outcomes: Outcomes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for column in (outcomes.ttft_s, outcomes.last_s, outcomes.cold, outcomes.ending, outcomes.cost_byte_s):
        found.update(column.tobytes())
    found.update(repr(outcomes.starts).encode())
    return found.hexdigest()


def _play_here(size: Size, seed: int) -> Played:
    """In this process, whose memory is then measured."""
    collect_seldom()  # as a front end does
    scenario = workload(size.nodes, size.models, size.requests, size.duration_s, seed)
    keep_what_is_there()
    began_s = time.process_time()
    outcomes = play(scenario)
    cpu_s = time.process_time() - began_s
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    unserved = float((outcomes.ending != 1).mean())
    return Played(
        cpu_s, peak_gib, len(outcomes), float(outcomes.cold.mean()), unserved, len(outcomes.starts), outcomes.events,
        _digest(outcomes),
    )  # fmt: skip


def _play(size: Size, seed: int) -> Played:
    """In a process of its own, whose hashes differ from those of all others."""
    told = json.dumps({**asdict(size), "seed": seed})
    command = [sys.executable, str(Path(__file__).resolve()), "--here", told]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
    return Played(**json.loads(done.stdout))


def measure(seed: int, *, quick: bool) -> tuple[list[Result], dict[str, Played]]:
    """All figures, and the plays that they are of."""
    small, large = 10, 100 if quick else 1000
    full = _alike(50, GROWTH_S) if quick else Size(NODES, MODELS, FULL_S, REQUESTS / FULL_S)
    at_most = full.nodes
    few_models, many_models = (Size(at_most, of, GROWTH_S, PER_NODE_S / 2 * of) for of in (10, 2 * at_most))
    once = Size(20, 40, 300.0, PER_NODE_S * 20)
    sizes = {
        "full": full, "few nodes": _alike(small), "many nodes": _alike(large), "few models": few_models,
        "many models": many_models, "once": once, "once more": once,
    }  # fmt: skip
    played = {name: _play(size, seed) for name, size in sizes.items()}
    per_s = played["full"].requests / played["full"].cpu_s
    log_of = log(large) / log(small), log(2 * at_most) / log(10)
    return [
        Result(f"simulated_requests_per_s_{full.nodes}_nodes", per_s, "requests/s", "higher", REQUESTS / GOAL_S, "goal"),
        Result("simulator_peak_gib", played["full"].peak_gib, "GiB", "lower", GOAL_GIB, "goal"),
        Result("simulator_us_a_request", played["full"].us, "us", "lower", GOAL_S / REQUESTS * 1e6, "goal"),
        Result("simulator_cold", played["full"].cold, "fraction", "lower"),
        Result("simulator_starts_a_request", played["full"].starts / played["full"].requests, "", "lower"),
        Result(
            f"growth_{small}_to_{large}_nodes", played["many nodes"].us / played["few nodes"].us, "x", "lower", log_of[0],
            "logarithm",
        ),
        Result(
            f"growth_10_to_{2 * at_most}_models", played["many models"].us / played["few models"].us, "x", "lower", log_of[1],
            "logarithm",
        ),
        Result(
            "simulator_the_same_twice", float(played["once"].digest == played["once more"].digest), "", "higher", 1.0,
            "goal",
        ),
    ], played  # fmt: skip


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--quick", action="store_true", help="50 nodes, and growth up to 100")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--here", help="play this one size, as JSON, and say what it took as JSON")
    options = args.parse_args()
    if options.here is not None:
        size = json.loads(options.here)
        print(json.dumps(asdict(_play_here(Size(**{k: v for k, v in size.items() if k != "seed"}), size["seed"]))))
        return
    results, played = measure(options.seed, quick=options.quick)
    report("simulator", results, options.json, plays={name: asdict(each) for name, each in played.items()})


if __name__ == "__main__":
    main()
