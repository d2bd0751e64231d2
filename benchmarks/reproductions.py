"""Two papers' figures, played: what was published, what the simulator says, and what ours would have done there.

    python benchmarks/reproductions.py [--json] [--quick] [--only fig7|fig9|fig11|fig13|loading...] [--write PAGE]
    python benchmarks/reproductions.py [--json] --trace FILE

The data and their sources are in benchmarks/papers/. Cold starts (figure 7 of HydraServe) are one request each; figures
9, 11 and 13 are an hour on 24 GPUs under five systems. --quick takes a quarter of an hour of one cell, and leaves no model
out. With --trace a recorded trace is played instead, for the models of `firsttoken traces import --preset hydraserve` and
at 0.6 requests a second: there is nothing published to hold that against.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.papers import figures
from benchmarks.papers.beds import HALVED, OURS
from benchmarks.papers.calibration import Calibration, calibrate, rounded
from benchmarks.papers.figures import PUBLISHED, Found, Seen
from benchmarks.papers.hydraserve import CELLS, FIGURE11_CELL, VLLM, Cell
from benchmarks.papers.loading import table
from benchmarks.papers.recorded import recorded
from benchmarks.papers.serving import UNSLICED, Served, ratios, serve
from benchmarks.papers.tables import Shown, around, write
from benchmarks.papers.workload import DURATION_S, only_called, workload
from benchmarks.report import machine, parser, report
from flows.errors import NotATrace
from schedules.traces.errors import TraceError
from schedules.traces.trace import Trace

PARTS = ("fig7", "fig9", "fig11", "fig13", "loading")
QUICK_S = 900.0
SYSTEMS_PLAYED = (*PUBLISHED, OURS)
_Job = TypeVar("_Job")


def _serve(calibration: Calibration, duration_s: float, job: tuple[str, Cell]) -> Served:
    system, cell = job
    return serve(system, only_called(workload(cell, duration_s=duration_s)), calibration)


def _serve_recorded(calibration: Calibration, trace: Trace, system: str) -> Served:
    return serve(system, trace, calibration)


def _seen(served: Served, plain: Served) -> Seen:
    tpot, cost = ratios(served, plain)
    return Seen(served.attained, served.by_task, tpot, cost, served.cold)


def _in_parallel(play: Callable[[_Job], Served], jobs: Sequence[_Job]) -> list[Served]:
    """One job after the other on each core."""
    with ProcessPoolExecutor(min(len(jobs), psutil.cpu_count() or 1)) as pool:
        played = list[Served]()
        for served in pool.map(play, jobs):
            played.append(served)
            print(f"{len(played)} of {len(jobs)} played: {served.system}, {served.attained:.1%}", file=sys.stderr)
        return played


def _cells(
    calibration: Calibration, parts: Sequence[str], *, quick: bool
) -> tuple[dict[tuple[str, Cell], Seen], Sequence[Cell]]:
    """Every system in every cell that is wanted."""
    cells = CELLS if "fig9" in parts and not quick else (FIGURE11_CELL,)
    jobs = [(system, cell) for cell in cells for system in SYSTEMS_PLAYED]
    if "fig13" in parts:
        jobs += [(UNSLICED, FIGURE11_CELL), (HALVED, FIGURE11_CELL)]
    served = dict(
        zip(jobs, _in_parallel(partial(_serve, calibration, QUICK_S if quick else DURATION_S), jobs), strict=True)
    )  # fmt: skip
    return {job: _seen(each, served[VLLM, job[1]]) for job, each in served.items()}, cells


def reproduce(parts: Sequence[str], *, quick: bool) -> Found:
    """The figures that are wanted."""
    found, calibration = Found(), rounded(calibrate())
    if "fig7" in parts:
        figures.figure7(found, calibration, leave_out=not quick)
    if {"fig9", "fig11", "fig13"} & set(parts):
        seen, cells = _cells(calibration, parts, quick=quick)
        of_cell: Mapping[str, Seen] = {system: each for (system, cell), each in seen.items() if cell == FIGURE11_CELL}
        if "fig9" in parts:
            figures.figure9(found, seen, cells)
        if "fig11" in parts:
            figures.figure11(found, of_cell)
        if "fig13" in parts:
            figures.figure13(found, of_cell)
    if "loading" in parts:
        figures.loading(found, table())
    return found


def replay(trace: Trace) -> Found:
    """A recorded trace under every system."""
    found, calibration = Found(), rounded(calibrate())
    served = _in_parallel(partial(_serve_recorded, calibration, trace), SYSTEMS_PLAYED)
    plain, rows = served[0], []
    for each in served:
        seen = _seen(each, plain)
        found.add(f"trace_attained_{each.system.lower().replace(' ', '_')}", seen.attained, "higher")
        rows.append((each.system, f"{seen.attained:.1%}", f"{seen.cold:.0%}", f"{seen.cost.mean:.3f}"))
    rate_per_s = len(trace) / trace.duration_s
    note = f"{len(trace)} requests for {len(trace.models)} models, {rate_per_s:.2f} a second."
    found.tables.append(Shown("A recorded trace", note, ("", "attained", "cold", "cost over vLLM's"), rows))
    return found


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--quick", action="store_true", help="a quarter of an hour of one cell")
    args.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these figures alone")
    args.add_argument("--trace", type=Path, help="play this recorded trace instead")
    args.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, between its marks")
    options = args.parse_args()
    try:
        if options.write:
            around(options.write)
        trace = recorded(options.trace) if options.trace else None
    except (OSError, ValueError, NotATrace, TraceError) as error:
        args.error(str(error))
    found = reproduce(options.only, quick=options.quick) if trace is None else replay(trace)
    if options.write:
        words = ", ".join(f"{key} {value}" for key, value in machine().items() if value is not None)
        command = shlex.join(["python", "benchmarks/reproductions.py", *sys.argv[1:]])
        write(options.write, found.tables, f"`{command}` on {words} (the figures are of virtual time).")
    if not options.json:
        for shown in found.tables:
            shown.print(Console(stderr=True))
    report("reproductions", found.results, options.json)


if __name__ == "__main__":
    main()
