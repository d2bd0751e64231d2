"""What foreseeing saves: seven traces played against seven ways to have models at hand, in the simulator.

    python benchmarks/prewarm.py [--json] [--traces DIR] [--only TRACE ...] [--systems NAME ...] [--seed 1]

Cluster, models and traces are those of `benchmarks.prewarm_workload`; DIR has the recorded ones
(azure_functions_invitro_sample, azure_llm_2023, mooncake_fast25), which are left out without it. They, and their seeds, were
fixed before anything that foresees was played. The first part of each trace is played to be learned from, and does not count.
All systems have the same nodes and the same memory, start and move models as ours does, and differ in what they keep and
foresee:

    nothing           replicas go 10 s after their last request, and nothing stays in dram or on ssd
    lru               in each tier stays what was used last, on accelerators too, until others need the room
    keep-alive        the same, but replicas go 600 s after their last request
    hybrid-histogram  as lru, with plans by the hybrid histogram of "Serverless in the Wild"
    warmserve         as lru, with plans by WarmServe's rule
    ours              as lru, with plans by our forecasts
    oracle            as lru, with plans by what really comes

A request found its model where the slowest of the bytes lay that its replica's start waited for; "device" is a replica that
it had not to wait for. Ratios are of the trace where they are worst.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.prewarm_workload import MADE, RECORDED, Played, played, scenario
from benchmarks.report import Result, parser, report
from schedules.simulation.outcomes import Ending, Found
from schedules.simulation.play import play
from schedules.systems.prewarming import CHOSEN, HISTOGRAM, KEEP_ALIVE, LRU, WARMSERVE, compared
from schedules.systems.system import System

THEIRS = {"lru": LRU, "keep_alive": KEEP_ALIVE, "histogram": HISTOGRAM, "warmserve": WARMSERVE}
"""Whom ours is held against, as the figures are called."""
HALF = 0.5


@dataclass(frozen=True)
class Row:
    """What became of the requests that count, of one trace under one system: shares that found their models in each tier,
    seconds to the first token; bytes that were moved from each tier, and those in dram times seconds, in all that was
    played."""

    trace: str
    system: str
    requests: int
    device: float
    dram: float
    ssd: float
    peer: float
    remote: float
    p50_s: float
    p95_s: float
    p99_s: float
    unserved: int
    moved_bytes: Mapping[str, int]
    dram_byte_s: float
    cpu_s: float


def row(of: Played, system: System, seed: int) -> Row:
    """The trace, played."""
    began_s = time.process_time()
    outcomes = play(replace(scenario(of.trace, seed), system=system))
    since = int(np.searchsorted(of.trace.at_s, of.history_s))
    found, ttft_s = outcomes.found_in(since), np.nan_to_num(outcomes.ttft_s[since:], nan=np.inf)
    p50_s, p95_s, p99_s = (float(each) for each in np.percentile(ttft_s, (50, 95, 99), method="higher"))
    return Row(
        of.name, system.name, len(ttft_s), found[Found.DEVICE], found[Found.DRAM], found[Found.SSD], found[Found.PEER],
        found[Found.REMOTE], p50_s, p95_s, p99_s,
        int((outcomes.ending[since:] != Ending.SERVED).sum()), dict(outcomes.moved_bytes), outcomes.dram_byte_s,
        time.process_time() - began_s,
    )  # fmt: skip


def figures(rows: Sequence[Row]) -> list[Result]:
    """Of the traces where they are worst."""
    p95_s = {(each.trace, each.system): each.p95_s for each in rows}
    traces = list(dict.fromkeys(each.trace for each in rows))
    found = list[Result]()
    for name, theirs in THEIRS.items():
        ratios = {trace: p95_s[trace, CHOSEN.name] / p95_s[trace, theirs.name] for trace in traces}
        worst = max(ratios, key=ratios.__getitem__)
        found.append(Result(f"prewarm_p95_ttft_over_{name}", ratios[worst], "x", "lower", 1.0, worst))
    gaps = gaps_closed(rows)
    worst = min(gaps, key=gaps.__getitem__)
    found.append(Result("prewarm_gap_to_oracle_closed", gaps[worst], "fraction", "higher", HALF, worst))
    return found


def gaps_closed(rows: Sequence[Row]) -> dict[str, float]:
    """By trace."""
    p95_s = {(each.trace, each.system): each.p95_s for each in rows}
    traces = dict.fromkeys(each.trace for each in rows)
    return {trace: closed(*(p95_s[trace, name] for name in (LRU.name, CHOSEN.name, "oracle"))) for trace in traces}


def closed(lru_s: float, ours_s: float, oracle_s: float) -> float:
    """How much of what knowing all would save ours does; all of it where nothing would."""
    return (lru_s - ours_s) / (lru_s - oracle_s) if lru_s > oracle_s else 1.0


def show(rows: Sequence[Row]) -> None:
    """For a person."""
    columns = (
        "trace",
        "system",
        "device",
        "dram",
        "ssd",
        "peer",
        "remote",
        "p50 s",
        "p95 s",
        "p99 s",
        "moved GB",
        "dram TB h",
    )
    table = Table(*columns, title="where requests found their models, and their first tokens")
    for each in rows:
        shares = [f"{share:.1%}" for share in (each.device, each.dram, each.ssd, each.peer, each.remote)]
        times = [f"{seconds:.3f}" for seconds in (each.p50_s, each.p95_s, each.p99_s)]
        moved = "/".join(f"{each.moved_bytes.get(tier, 0) / 1e9:.0f}" for tier in ("remote", "peer", "ssd"))
        table.add_row(each.trace, each.system, *shares, *times, moved, f"{each.dram_byte_s / 3.6e15:.2f}")
    Console(width=150).print(table)


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    options.add_argument(
        "--traces", type=Path, help="a folder with the recorded traces; without it those made up alone"
    )
    options.add_argument("--only", nargs="+", default=[], choices=[*MADE, *RECORDED], help="of the traces, these")
    options.add_argument("--systems", nargs="+", default=[], help="of the systems, these, and no figures")
    options.add_argument("--seed", type=int, default=1)
    wanted = options.parse_args()
    if wanted.traces is None and (missing := [name for name in wanted.only if name in RECORDED]):
        options.error(f"{', '.join(missing)} are recorded: say with --traces where they are")
    rows = list[Row]()
    for each in played(wanted.traces, wanted.only, wanted.seed):
        for system in compared(each.trace):
            if not wanted.systems or system.name in wanted.systems:
                rows.append(row(each, system, wanted.seed))
                print(f"{each.name} {system.name}: p95 {rows[-1].p95_s:.3f} s", file=sys.stderr, flush=True)
    if wanted.systems:
        print(json.dumps([asdict(each) for each in rows])) if wanted.json else show(rows)
        return 0
    gaps = gaps_closed(rows)
    if not wanted.json:
        show(rows)
        print("of the gap to the oracle: " + ", ".join(f"{trace} {share:.0%}" for trace, share in gaps.items()))
    report("prewarm", figures(rows), wanted.json, rows=[asdict(each) for each in rows], gaps=gaps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
