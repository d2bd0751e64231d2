"""Moves that Prefect carries out: the seconds from a move's order at the front end to the first step of its flow there.

    python benchmarks/move_flow.py [--json] [--moves N]

A whole platform, at rest: an idle replica of a tiny model migrates to and fro between two nodes, and every step is taken by a
flow run in the flow service. Moves whose steps the front end took over, as nobody did in time, are counted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

from benchmarks.moves_models import PROMPT, TINY, publish_tiny
from benchmarks.moves_operator import NO_AUTHORITIES, SETTINGS, Move, Operator
from benchmarks.report import Result, parser, report
from benchmarks.running import Platform, run_platform
from firsttoken.ports import free_port

MOVES = 30
APART_S = 2.0
"""Between two moves, so that Prefect has written down what it was told of the one before."""
GOAL_S = 0.3
_UP_WITHIN_S = 120.0


def begin_times(folder: Path, moves: int) -> tuple[list[float], int]:
    """The seconds of each, the first, which finds all cold, apart; and how many the front end took over."""
    store_url = (folder / "store").as_uri()
    publish_tiny(store_url)
    own = {"frontend": {**SETTINGS, "degree": 1, "keep_alive_s": 600.0}}
    with run_platform(folder, store_url, 2, [], _UP_WITHIN_S, frontends={"moving": own}) as platform:
        url = platform.named["moving"]
        _start_flows(platform, url)
        _ask(url)
        operator = Operator(url)
        done = [_migrated(operator) for _ in range(moves + 1)]
    times = [move["preparing_at"] - move["ordered_at"] for move in done]
    return times, sum(move["carrier"] != "flow" for move in done)


def _start_flows(platform: Platform, url: str) -> None:
    """Prefect and the flow service; returns when the flows are registered."""
    ready = platform.home / "run" / "flows.ready"
    settings: dict[str, Any] = {
        "home": str(platform.home),
        "prefect": {"port": free_port()},
        "frontend": {**SETTINGS, "port": int(url.rpartition(":")[2])},
    }
    platform.start("prefect", settings, "prefect")
    platform.start("flows", settings, "flows")
    until_s = time.monotonic() + _UP_WITHIN_S
    while not ready.exists():
        if time.monotonic() > until_s:
            raise TimeoutError(f"the flow service is not ready after {_UP_WITHIN_S:.0f} s")
        time.sleep(0.2)


def _ask(url: str) -> None:
    """Have a replica of the model started."""
    body = {"model": TINY, "prompt": PROMPT, "max_tokens": 1}
    httpx.post(f"{url}/v1/completions", json=body, timeout=_UP_WITHIN_S, verify=NO_AUTHORITIES).raise_for_status()


def _migrated(operator: Operator) -> Move:
    """The move of the replica to the other node, once it is done and all is at rest."""
    (replica,) = operator.replicas(TINY)
    (here,) = replica["nodes"]
    there = next(node["name"] for node in operator.status()["nodes"] if node["name"] != here)
    move = operator.await_done(operator.order("migrate", model=TINY, node=there)["move"])
    time.sleep(APART_S)
    return move


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--moves", type=int, default=MOVES, help="how many are measured")
    options = args.parse_args()
    with tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder:
        (first_s, *times_s), taken_over = begin_times(Path(folder), options.moves)
    p95_s = statistics.quantiles(times_s, n=20, method="inclusive")[-1]
    results = [
        Result("flow_begin_p50_s", statistics.median(times_s), "s", "lower", GOAL_S, "goal"),
        Result("flow_begin_p95_s", p95_s, "s", "lower", GOAL_S, "goal"),
        Result("flow_begin_first_s", first_s, "s", "lower"),
        Result("flow_taken_over", taken_over, "moves", "lower"),
    ]
    report("move_flow", results, options.json)


if __name__ == "__main__":
    main()
