"""Prewarming on a live cluster: what it costs the cold starts beside it, and from where they come after it.

    python benchmarks/prewarm_live.py [--json] [--only PART...] [--rate 200mbit] [--rounds N] [--seed N]

In the lab (infra/lab), as root: four nodes in network namespaces, each behind a card of the given rate, and a store behind
another one. The parts:

- beside: a cold start over two nodes alone, while another model is staged on the same nodes, and while it is staged on the
  other two, which share but the store with it; in turns.
- part: a part of a made-up trace, sped up, on a cluster whose dram is too small for its models: with nothing but what starts
  leave behind, and with plans made from the past as the flow makes them. Where each cold start's units came from says the
  front end's ledger.
"""

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.prewarm_beside import beside
from benchmarks.prewarm_part import parts
from benchmarks.report import Result, parser, report
from infra.lab.network import why_not
from infra.lab.platform import parse_rate

LARGEST_SLOWDOWN = 1.05


def measured_beside(rate: float, rounds: int, _seed: int) -> list[Result]:
    found = beside(rate, rounds)
    both = [*found.same_s, *found.others_s]
    worst = max(found.slowdown(found.same_s), found.slowdown(found.others_s))
    return [
        Result("cold_start_beside_staging_slowdown", worst, "x", "lower", LARGEST_SLOWDOWN, "goal"),
        Result("cold_start_beside_staging_same_nodes", found.slowdown(found.same_s), "x", "lower"),
        Result("cold_start_beside_staging_same_nodes_spread", found.spread(found.same_s), "x", "lower"),
        Result("cold_start_beside_staging_other_nodes", found.slowdown(found.others_s), "x", "lower"),
        Result("cold_start_beside_staging_other_nodes_spread", found.spread(found.others_s), "x", "lower"),
        Result("cold_start_alone_ttft", sum(found.alone_s) / len(found.alone_s), "s", "lower"),
        Result("cold_start_beside_staging_ttft", sum(both) / len(both), "s", "lower"),
    ]


def measured_part(rate: float, _rounds: int, seed: int) -> list[Result]:
    without, planned = parts(rate, seed)
    return [
        Result("live_hits_dram_share", planned.share("dram"), "of cold starts", "higher"),
        Result("live_hits_ssd_share", planned.share("ssd"), "of cold starts", "higher"),
        Result("live_hits_dram_share_without", without.share("dram"), "of cold starts", "higher"),
        Result("live_hits_ssd_share_without", without.share("ssd"), "of cold starts", "higher"),
        Result("live_cold_starts", sum(planned.sources.values()), "starts", "lower"),
        Result("live_requests", len(planned.ttft_s), "requests", "higher"),
        Result("live_p95_ttft", planned.p95_ttft_s, "s", "lower"),
        Result("live_p95_ttft_without", without.p95_ttft_s, "s", "lower"),
    ]


PARTS: dict[str, Callable[[float, int, int], list[Result]]] = {"beside": measured_beside, "part": measured_part}


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="these parts alone")
    args.add_argument("--rate", type=parse_rate, default="200mbit", help="each node's card and the store's, each way")
    args.add_argument("--rounds", type=int, default=8, help="how often a cold start is measured each way")
    args.add_argument("--seed", type=int, default=1, help="of the trace")
    options = args.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with us
    problem = why_not()
    if problem is not None:
        sys.exit(f"nothing can be measured: {problem}")
    results, failed = list[Result](), list[str]()
    for name in options.only:
        print(f"{name} ...", file=sys.stderr)
        try:
            results += PARTS[name](options.rate, options.rounds, options.seed)
        except Exception:  # what the other part found is told all the same
            traceback.print_exc()
            failed.append(name)
    report("prewarm_live", results, options.json, failed=failed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
