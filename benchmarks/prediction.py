"""How well cold starts are predicted: predicted against measured time to first token, over starts of mixed kinds.

    python benchmarks/prediction.py [--json] [--rounds N] [--rate 200mbit] [--disk-rate RATE] [--seed N]

Runs in the lab (infra/lab, as root): four nodes behind cards of the given rate, an S3 server, a front end for
each of the degrees 1, 2 and 4. In a shuffled order, per degree and round: a start from empty tiers, one from ssd, one from
dram, and two models of one size at the same moment from empty tiers. The nodes know their own probes and one
calibration, as the flow does it every day; a front end learns from each of its starts as it would anywhere. Every start
counts, the first ones too. The error is |measured / predicted - 1|.
"""

import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cold_start import ttft
from benchmarks.pipeline_lab import SETTLE_S, calibrated, empty, rest
from benchmarks.pipeline_models import Subject, subjects
from benchmarks.report import Result, parser, report
from cluster.client import ClusterClient
from infra.lab.network import LabError
from infra.lab.platform import Lab, parse_rate, run_lab
from schedules.rates import DECODE, NIC, PREFILL, SSD

NODES, DEGREES = 4, (1, 2, 4)
ALONE = ("remote", "ssd", "dram")
PAIR = "pair"


async def _stage(lab: Lab, subject: Subject, tier: str) -> None:
    async with ClusterClient(lab.scheduler_address) as client:
        units = [unit.name for unit in subject.checkpoint.units]
        nodes = (await client.nodes(NODES)).nodes
        await asyncio.gather(*(client.bring(n.name, subject.checkpoint, units, tier, SETTLE_S) for n in nodes))


def _prepare(lab: Lab, both: Sequence[Subject], degree: int, kind: str) -> None:
    """Empty tiers, or all units of the first model in one tier of every node."""
    rest(lab, lab.urls[degree])
    if kind != "dram":
        empty(lab, [subject.checkpoint for subject in both])
    if kind in ("ssd", "dram"):
        asyncio.run(_stage(lab, both[0], kind))


def _start(lab: Lab, both: Sequence[Subject], degree: int, kind: str) -> list[dict[str, Any]]:
    """One start, or two at once; as the front end's ledger has them."""
    _prepare(lab, both, degree, kind)
    asked = both if kind == PAIR else both[:1]
    with ThreadPoolExecutor(len(asked)) as askers:
        list(askers.map(lambda subject: ttft(lab.urls[degree], subject.name), asked))
    query = {"limit": len(asked)}
    answer = httpx.get(f"{lab.urls[degree]}/admin/cold-starts", params=query, timeout=60).raise_for_status().json()
    return [{**start, "kind": kind} for start in answer["cold_starts"]]


def _wait_for_probes(lab: Lab) -> None:
    """Until every node has measured itself and its way to the store, as nodes do that nobody asks anything."""
    until_s = time.monotonic() + SETTLE_S
    while True:
        nodes = httpx.get(f"{lab.urls[DEGREES[0]]}/admin/status", timeout=10).raise_for_status().json()["nodes"]
        if len(nodes) == NODES and all({NIC, SSD, DECODE, PREFILL} <= node["rates"].keys() for node in nodes):
            return
        if time.monotonic() > until_s:
            raise TimeoutError("the nodes did not measure themselves")
        time.sleep(0.2)


def measure(lab: Lab, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Every start of the run, in order."""
    both = subjects(lab, ["smollm2", "twin"])
    _wait_for_probes(lab)
    calibrated(lab)
    order = [(degree, kind) for _ in range(rounds) for degree in DEGREES for kind in (*ALONE, PAIR)]
    random.Random(seed).shuffle(order)
    return [start for degree, kind in order for start in _start(lab, both, degree, kind)]


def _errors(starts: Sequence[dict[str, Any]]) -> list[float]:
    return sorted(abs(start["prediction_error"]) for start in starts if start.get("prediction_error") is not None)


def _results(starts: Sequence[dict[str, Any]]) -> list[Result]:
    errors = _errors(starts)
    found = [
        Result("prediction_starts", len(starts), "starts", "higher", 40, "goal"),
        Result("prediction_without", len(starts) - len(errors), "starts", "lower", 0, "goal"),
        Result("prediction_error_median", statistics.median(errors), "fraction", "lower", 0.10, "goal"),
        Result("prediction_error_p95", errors[round(0.95 * (len(errors) - 1))], "fraction", "lower", 0.25, "goal"),
    ]
    for kind in (*ALONE, PAIR):
        of_kind = _errors([start for start in starts if start["kind"] == kind])
        if of_kind:
            name = f"prediction_error_{kind}_median"
            found.append(Result(name, statistics.median(of_kind), "fraction", "lower", 0.10, "goal"))
    return found


def _show(starts: Sequence[dict[str, Any]]) -> None:
    table = Table("kind", "degree", "predicted s", "bad end s", "measured s", "error", title="every start, in order")
    for start in starts:
        predicted = start["predicted"] or {}
        told = [f"{predicted[key]:.3f}" if key in predicted else "-" for key in ("ttft_s", "ttft_bad_s")]
        error = start.get("prediction_error")
        table.add_row(
            start["kind"], str(start["degree"]), *told, f"{start['ttft_s']:.3f}",
            "-" if error is None else f"{error:+.1%}",
        )  # fmt: skip
    Console(stderr=True).print(table)


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--rounds", type=int, default=3, help="starts of each kind and degree")
    args.add_argument("--rate", type=parse_rate, default="200mbit", help="each node's card, each way")
    args.add_argument("--disk-rate", type=parse_rate, help="each node's disk, as it is read; shared without it")
    args.add_argument("--seed", type=int, default=1, help="of the order")
    options = args.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the lab ends with us
    try:
        with (
            tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
            run_lab(Path(folder), NODES, DEGREES, options.rate, disk_bytes_per_s=options.disk_rate) as lab,
        ):
            starts = measure(lab, options.rounds, options.seed)
    except LabError as error:
        sys.exit(f"prediction: {error}")
    _show(starts)
    report("prediction", _results(starts), options.json)


if __name__ == "__main__":
    main()
