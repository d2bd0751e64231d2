"""How fast tokens come: our engine at several degrees against what transformers offers, in the same run.

    python benchmarks/generation.py [--json] [--quick] [--only peers|ours|start...] [--dtypes bf16|fp32...]
                                    [--degrees N...] [--requests N...] [--runs N]

SmolLM2-135M-Instruct, greedy, past every end-of-sequence token. Requests come together (prompts of 32 tokens, 48 new
ones) or at random (Poisson, prompts of 12 to 96 tokens, 16 to 80 new ones), to everyone the same. Ours are real nodes
and a group formed on them, asked without HTTP. Each peer is a fresh process with as many threads as one of our stages
has; nothing of ours runs beside it. One request is measured beside a busy process too, which computes on whatever core
it is given. Setting up, forming and warming up are outside the clock. Medians of several runs.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")  # or DeepSpeed says on stdout what it chose

from benchmarks.generation_load import busy_process
from benchmarks.generation_model import DTYPES, MeasuredModel, measured_model
from benchmarks.generation_ours import TIMEOUT_S, generate, placed, run_nodes, settle
from benchmarks.generation_peers import Generate, Peer, run_peer
from benchmarks.generation_start import measure_start
from benchmarks.generation_work import (
    Outcome,
    Request,
    equal_fraction,
    random_arrivals,
    shortened,
    together,
    tokens_per_s,
    tpot_s,
)
from benchmarks.report import Result, parser, report
from cluster.group import Group

DEGREES, REQUESTS = (1, 2, 4), (1, 4, 16, 32)
PARTS = ("peers", "ours", "start")
RUNS, FORMS, REFERENCES = 3, 10, 16
QUICK_REQUESTS, QUICK_RUNS, QUICK_FORMS, QUICK_REFERENCES = (1, 16), 1, 4, 4

_BESIDE_LOAD = "beside_load"

Cell = tuple[str, int]
"""How requests arrive ("together", "random") and how many they are."""


@dataclass(frozen=True)
class Options:
    """What to measure, how often, and whom to tell."""

    only: Sequence[str]
    degrees: Sequence[int]
    requests: Sequence[int]
    runs: int
    forms: int
    references: int
    say: Callable[[str], None]

    @property
    def cells(self) -> list[Cell]:
        """One request alone cannot arrive at random."""
        return [(how, n) for how in ("together", "random") for n in self.requests if how == "together" or n > 1]


class Figures:
    """Collects the results of one dtype; `reference` are the tokens that transformers gives one by one."""

    def __init__(self, model: MeasuredModel, suffix: str, options: Options) -> None:
        self._model, self._suffix, self._options = model, suffix, options
        self.reference: dict[str, list[Outcome]] = {}
        self.results: list[Result] = []

    def work(self, cell: Cell) -> list[Request]:
        """The requests of a cell."""
        how, count = cell
        return (together if how == "together" else random_arrivals)(self._model.text, count)

    def add(self, who: str, cell: str, runs: Sequence[list[Outcome]], how: str) -> None:
        """Medians of several runs of a cell, and how many of the first run's sequences are the reference's."""
        rate = statistics.median(map(tokens_per_s, runs))
        self._tell(f"{who}tokens_per_s_{cell}", rate, "tokens/s", "higher")
        self._tell(f"{who}tpot_ms_{cell}", statistics.median(map(tpot_s, runs)) * 1e3, "ms", "lower")
        if how in self.reference:
            equal = equal_fraction(runs[0], self.reference[how])
            self._tell(f"{who}greedy_equal_{cell}", equal, "fraction", "higher")

    def _tell(self, name: str, value: float, unit: str, better: Literal["higher", "lower"]) -> None:
        self._options.say(f"  {name}{self._suffix} {value:.4g} {unit}")
        self.results.append(Result(f"{name}{self._suffix}", value, unit, better))

    def held(self) -> list[Result]:
        """Each of our rates beside the peer's that does the same work."""
        rates = {result.name: result.value for result in self.results}
        peers = (
            {
                f"degree{degree}_requests{n}": f"transformers_{'' if n == 1 else 'padded_'}tokens_per_s_requests{n}"
                for degree in DEGREES
                for n in self._options.requests
            }
            | {
                f"{_degree(degree)}random_arrivals{n}": f"transformers_continuous_tokens_per_s_requests{n}"
                for degree in DEGREES
                for n in self._options.requests
            }
            | {_BESIDE_LOAD: f"generate_tokens_per_s_{_BESIDE_LOAD}"}
        )
        against = {f"tokens_per_s_{cell}{self._suffix}": f"{peer}{self._suffix}" for cell, peer in peers.items()}
        return [
            replace(result, limit=rates[against[result.name]], against=against[result.name].split("_tokens")[0])
            if against.get(result.name) in rates
            else result
            for result in self.results
        ]


def measure_peers(folder: Path, model: MeasuredModel, figures: Figures, options: Options) -> None:
    """One by one, which is the reference too; padded; continuous."""
    model.save(folder / model.dtype)

    def peer(kind: str) -> Peer:
        options.say(f"transformers {kind}, {model.dtype}")
        return Peer(kind, str(folder / model.dtype), model.dtype, os.cpu_count() or 1)

    with run_peer(peer("one_by_one")) as generate_with:
        alone = figures.work(("together", options.references))
        generate_with(alone[:1])
        runs = [generate_with([request]) for request in alone]
        figures.add("transformers_", "requests1", runs, "together")
        figures.reference["together"] = [outcome for run in runs for outcome in run]
        if any(how == "random" for how, _ in options.cells):
            figures.reference["random"] = generate_with(figures.work(("random", options.references)))
        with busy_process():
            figures.add("generate_", _BESIDE_LOAD, _repeat(generate_with, alone[:1], options.runs), "together")
    with run_peer(peer("padded")) as generate_with:
        for n in options.requests:
            runs = _repeat(generate_with, figures.work(("together", n)), options.runs)
            figures.add("transformers_padded_", f"requests{n}", runs, "together")
    with run_peer(peer("continuous")) as generate_with:
        for how, n in options.cells:
            runs = _repeat(generate_with, figures.work((how, n)), options.runs)
            figures.add(f"transformers_continuous_{'' if how == 'random' else 'together_'}", f"requests{n}", runs, how)


def _repeat(generate_with: Generate, requests: Sequence[Request], runs: int) -> list[list[Outcome]]:
    generate_with(shortened(requests))
    return [generate_with(requests) for _ in range(runs)]


async def measure_ours(home: Path, model: MeasuredModel, figures: Figures, options: Options) -> None:
    """A group of every degree, formed before the clock starts and asked for one cell after the other."""
    async with run_nodes(home, model, max(options.degrees)) as client:
        for degree in options.degrees:
            options.say(f"firsttoken at degree {degree}, {model.dtype}")
            group = await client.form(
                uuid.uuid4().hex, placed(client, model.checkpoint, degree), model.checkpoint, TIMEOUT_S
            )
            for how, n in options.cells:
                runs = await _repeat_ours(group, figures.work((how, n)), options.runs)
                name = f"{_degree(degree)}random_arrivals{n}" if how == "random" else f"degree{degree}_requests{n}"
                figures.add("", name, runs, how)
            if degree == 1:
                with busy_process():
                    runs = await _repeat_ours(group, figures.work(("together", 1)), options.runs)
                figures.add("", _BESIDE_LOAD, runs, "together")
            await client.dissolve(group)
            await settle(client, max(options.degrees))


async def _repeat_ours(group: Group, requests: Sequence[Request], runs: int) -> list[list[Outcome]]:
    await generate(group, shortened(requests))
    return [await generate(group, requests) for _ in range(runs)]


def _degree(degree: int) -> str:
    return "" if degree == 1 else f"degree{degree}_"


def measure(dtypes: Sequence[str], options: Options) -> list[Result]:
    """All that is wanted, a dtype after the other."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder:
        for dtype in dtypes:
            suffix = "" if dtype == "bf16" else f"_{dtype}"
            home = Path(folder, dtype)
            home.mkdir()
            model = measured_model(dtype)
            figures = Figures(model, suffix, options)
            if "peers" in options.only:
                measure_peers(Path(folder), model, figures, options)
            if "ours" in options.only:
                asyncio.run(measure_ours(home, model, figures, options))
            results += figures.held()
            if "start" in options.only:
                options.say(f"starting, {model.dtype}")
                results += measure_start(home, model, suffix, options.forms, options.say)
    return results


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--quick", action="store_true", help="in bf16, 1 and 16 requests, one run")
    args.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    args.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), help="default both")
    args.add_argument("--degrees", nargs="+", type=int, choices=DEGREES, default=DEGREES, help="default all")
    args.add_argument("--requests", nargs="+", type=int, metavar="N", help=f"requests at once (default {REQUESTS})")
    args.add_argument("--runs", type=int, help=f"runs of each cell (default {RUNS})")
    given = args.parse_args()
    options = Options(
        only=given.only,
        degrees=given.degrees,
        requests=given.requests or (QUICK_REQUESTS if given.quick else REQUESTS),
        runs=given.runs or (QUICK_RUNS if given.quick else RUNS),
        forms=QUICK_FORMS if given.quick else FORMS,
        references=QUICK_REFERENCES if given.quick else REFERENCES,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nodes and peers end with us
    dtypes = given.dtypes or (("bf16",) if given.quick else tuple(DTYPES))
    report("generation", measure(dtypes, options), given.json)


if __name__ == "__main__":
    main()
