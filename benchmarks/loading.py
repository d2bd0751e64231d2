"""How fast checkpoints load: storage_tiers against the disk, the link, and what others load with.

    python benchmarks/loading.py [--json] [--quick] [--only NAME...] [--runs N] [--keep]

Llamas of random bytes, made below the home and removed at the end (--keep leaves them for the next run). Each load is a
process of its own, made ready before the clock starts (imports; our dram tier real, as an agent's is), and ends when
every page of every tensor was read and compared with what was saved. Files are out of the page cache before a load
from disk. Medians of runs that alternate with the limit: the disk read past the page cache by four threads, or fio
where that is faster; over a network, plain HTTP ranges. Peers are optional: pip install 'firsttoken[bench]'. The shaped
link needs root and iproute2. A cached virtual disk may be faster than its medium: the ratios count, not the rates.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")  # or DeepSpeed says on stdout what it chose

from benchmarks.loading_data import Samples
from benchmarks.loading_disk import measure_attach, measure_disk
from benchmarks.loading_remote import measure_loopback, measure_shaped
from benchmarks.loading_runs import Options
from benchmarks.needs import Absent
from benchmarks.report import Result, parser, report
from firsttoken.settings import load_settings

FOLDER = "bench-loading"
RUNS, QUICK_RUNS = 5, 3


def measure(samples: Samples, options: Options, sizes: tuple[str, ...]) -> list[Result]:
    """All figures that are wanted and can be had."""
    steps: list[tuple[str, Callable[..., list[Result]]]] = [
        *((size, measure_disk) for size in sizes),
        *((size, measure_attach) for size in sizes),
        ("1gb", measure_loopback),
        ("100mb", measure_shaped),
    ]
    results: list[Result] = []
    for size, step in steps:
        try:
            results += step(samples, size, options)
        except Absent as absent:
            options.say(f"absent: {absent}")
    return results


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--quick", action="store_true", help=f"only up to 1 GB, {QUICK_RUNS} runs")
    args.add_argument("--only", nargs="+", default=[], metavar="NAME", help="figures to measure; * stands for anything")
    args.add_argument("--runs", type=int, help=f"runs of each load (default {RUNS})")
    args.add_argument("--keep", action="store_true", help="leave the checkpoints for the next run")
    given = args.parse_args()
    options = Options(
        given.runs or (QUICK_RUNS if given.quick else RUNS),
        given.only,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    samples = Samples(Path(load_settings(None).home) / FOLDER, options.say)
    try:
        results = measure(samples, options, ("1gb",) if given.quick else ("1gb", "3gb"))
    finally:
        if not given.keep:
            samples.remove()
    report("loading", results, given.json)


if __name__ == "__main__":
    main()
