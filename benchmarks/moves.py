"""Moves: how long clients wait while their requests go on elsewhere, what that is worth, and what survives chaos.

    python benchmarks/moves.py [--json] [--quick] [--only PART...] [--rate 200mbit] [--pairs N] [--kills N] [--seed N]

Every figure is what streaming clients of the product's own front end saw, by their own clocks. The parts:

- consolidation: pipelines of two stages that become one under a stream: pauses, and times per token against replicas that
  were whole from the start, in turns; of SmolLM2-135M-Instruct and of a tiny model.
- migration: single requests that go to and fro between two replicas, and ten at once with their replica.
- answers, burst, beside: in the lab, as root: long answers of pipelines that consolidate against those of pipelines that
  stay; bursts with scale up against without; cold starts beside a consolidation on the same nodes against without.
- chaos: parts of the platform are killed at random under streams and moves; every token is compared.
"""

import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import moves_lab, moves_pauses
from benchmarks.moves_figures import chaos_figures, pace_figures, pause_figures, ratio_figures
from benchmarks.moves_models import published
from benchmarks.moves_run import survived
from benchmarks.report import Result, parser, report
from infra.lab.network import why_not
from infra.lab.platform import parse_rate


@dataclass(frozen=True)
class Amounts:
    """How much of everything is measured."""

    consolidations: int
    migrations: int
    together: int
    pairs: int
    cold_pairs: int
    kills: int


FULL = Amounts(consolidations=50, migrations=100, together=5, pairs=2, cold_pairs=10, kills=200)
QUICK = Amounts(consolidations=3, migrations=10, together=1, pairs=1, cold_pairs=1, kills=10)
TOKENS = {"smollm2": 120, "tiny": 2000}
"""Of an answer that is consolidated."""
LONG_TOKENS = {"smollm2": 1000, "tiny": 4000}
"""Of one that goes to and fro."""
ANSWER_TOKENS, BURST, BURST_TOKENS = 300, 16, 60


def consolidation(amounts: Amounts, _rate: float, _seed: int) -> list[Result]:
    url, models = published()
    results: list[Result] = []
    for kind, model in models.items():
        pauses, paces = moves_pauses.consolidations(url, model.name, amounts.consolidations, TOKENS[kind])
        prefix = "" if kind == "smollm2" else f"{kind}_"
        results += pause_figures(f"{prefix}consolidation", pauses)
        results += pace_figures(prefix, paces)
    return results


def migration(amounts: Amounts, _rate: float, _seed: int) -> list[Result]:
    url, models = published()
    results: list[Result] = []
    for kind, model in models.items():
        prefix = "" if kind == "smollm2" else f"{kind}_"
        pauses = moves_pauses.migrations(url, model.name, amounts.migrations, LONG_TOKENS[kind])
        results += pause_figures(f"{prefix}migration", pauses)
        pauses = moves_pauses.together(url, model.name, amounts.together, TOKENS[kind])
        results += pause_figures(f"{prefix}together", pauses)
    return results


def answers(amounts: Amounts, rate: float, _seed: int) -> list[Result]:
    results: list[Result] = []
    for name, clients in (("long_answer", 4), ("long_answer_alone", 1)):
        found = moves_lab.long_answers(rate, amounts.pairs, ANSWER_TOKENS, clients)
        results += ratio_figures(name, found, "tpot", 2.29)
    return results


def burst(amounts: Amounts, rate: float, _seed: int) -> list[Result]:
    found = moves_lab.bursts(rate, amounts.pairs, BURST, BURST_TOKENS)
    return ratio_figures("burst_ttft", found, "mean", 1.87)


def beside(amounts: Amounts, rate: float, _seed: int) -> list[Result]:
    found = moves_lab.cold_starts_beside(rate, amounts.cold_pairs)
    return [
        Result("cold_start_beside_consolidation_slowdown", found.slowdown, "x", "lower", 1.05, "goal"),
        *ratio_figures("cold_start_beside_consolidation", found, "ttft"),
    ]


def chaos(amounts: Amounts, _rate: float, seed: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder:
        account, left = survived(Path(folder), amounts.kills, seed)
    for line in [*account.wrong, *account.torn, *left]:
        print(line, file=sys.stderr)
    print(f"kills {dict(account.kills)}, moves {dict(account.moves)}, errors {dict(account.errors)}", file=sys.stderr)
    return chaos_figures(account, left)


PARTS: dict[str, Callable[[Amounts, float, int], list[Result]]] = {
    "consolidation": consolidation,
    "migration": migration,
    "answers": answers,
    "burst": burst,
    "beside": beside,
    "chaos": chaos,
}
IN_LAB = ("answers", "burst", "beside")


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--quick", action="store_true", help="a few of everything")
    args.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="these parts alone")
    args.add_argument("--rate", type=parse_rate, default="200mbit", help="each node's card in the lab, each way")
    args.add_argument("--pairs", type=int, help="how many cold starts there are beside a consolidation, and without")
    args.add_argument("--kills", type=int, help="how many there are in the chaos")
    args.add_argument("--seed", type=int, default=1, help="of the chaos")
    options = args.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with us
    amounts = QUICK if options.quick else FULL
    amounts = replace(
        amounts, kills=options.kills or amounts.kills, cold_pairs=options.pairs or amounts.cold_pairs
    )  # fmt: skip
    results, failed = list[Result](), list[str]()
    problem = why_not()
    for name in options.only:
        if name in IN_LAB and problem is not None:
            print(f"{name} is left out: {problem}", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr)
        try:
            found = PARTS[name](amounts, options.rate, options.seed)
        except Exception:  # what the other parts found is told all the same
            traceback.print_exc()
            failed.append(name)
            continue
        print(", ".join(f"{each.name} {each.value:.4g}" for each in found), file=sys.stderr)
        results += found
    report("moves", results, options.json, failed=failed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
