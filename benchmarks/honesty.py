"""How honest the simulator is: a live run, played again from its log, and how far apart the two are.

    python benchmarks/honesty.py [--json] [--write docs/honesty.md] [--log FILE] [--seconds S] [--seed N] [--rate 200mbit]
    python benchmarks/honesty.py --replay FILE [--json] [--write docs/honesty.md]

The run is in the lab (infra/lab, as root): four nodes behind cards of the given rate, an S3 server, models of three sizes,
bursts, cold starts from the store, from ssd and from dram, pipelines that are consolidated, and a node that is killed. The
log of it (`--log`) can be replayed anywhere. Before, each model is asked for alone, to which a world is fitted as `firsttoken
fit` fits one to a history; errors are of all that comes later. A seed makes the requests the same, and nothing else of a run.
"""

import signal
import sys
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.honesty_figures import judge, results
from benchmarks.honesty_lab import Run, record
from benchmarks.honesty_log import Log
from benchmarks.honesty_page import text, write
from benchmarks.honesty_replay import as_learned, as_reported, replay
from benchmarks.report import parser, report
from infra.lab.network import LabError
from infra.lab.platform import parse_rate
from schedules.fitting.errors import FitError


def main() -> None:
    args, usual = parser(__doc__.splitlines()[0]), Run()
    args.add_argument("--replay", type=Path, metavar="FILE", help="a log: nothing is run but its replay")
    args.add_argument("--log", type=Path, metavar="FILE", help="where the log of the run is written to")
    args.add_argument("--write", type=Path, metavar="PAGE", help="the page whose marked part is written anew")
    args.add_argument("--seconds", type=float, default=usual.seconds, help="how long requests are sent")
    args.add_argument("--seed", type=int, default=usual.seed, help="of the requests")
    args.add_argument("--rate", type=parse_rate, default=usual.bytes_per_s, help="each node's card, each way")
    options = args.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the lab ends with us
    try:
        if options.replay is not None:
            log = Log.read(options.replay)
        else:
            run = replace(usual, seed=options.seed, seconds=options.seconds, bytes_per_s=options.rate)
            log = record(run)
            if options.log is not None:
                log.write(options.log)
        told(log, options.write, options.json)
    except (LabError, FitError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"honesty: {error}")


def told(log: Log, page: Path | None, as_json: bool) -> None:
    """What is found of a log, printed, and written into a page."""
    world = as_learned(log)
    learned = judge(log, replay(log, world))
    if page is not None:
        write(page, text(log, world, learned, judge(log, replay(log, as_reported(log)))))
    report("honesty", results(learned), as_json, log_machine=log.machine)


if __name__ == "__main__":
    main()
