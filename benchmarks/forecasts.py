"""What forecasts cost, by method: cold starts against bytes held and moved, on the past as it would have been forecast.

    python benchmarks/forecasts.py [--json] [--trace FILE [--models N]] [--markdown]

Two days of each kind, the last half day of it judged each ten minutes. A cold start takes 10 s, a model has 16 GiB; a GiB
held for an hour is worth a second of cold starts, a GiB moved a hundredth. Equal room is where a fifth of the models can be
held at once, whatever it costs. With --trace the later three quarters of a recorded trace are judged instead, each minute;
requests of a trace that names no models are spread over --models by Zipf's law.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.forecasts_pasts import CVS, KINDS, made, recorded
from benchmarks.forecasts_told import Told
from benchmarks.report import Result, machine, parser, report
from flows.errors import NotATrace
from flows.trace_files import take
from schedules.foresight.backtest import Backtest, Row, backtest
from schedules.foresight.forecasters import BASELINES, DEFAULT, FORECASTERS
from schedules.foresight.past import DAY_S, Past
from schedules.foresight.prices import GIB, same_prices
from schedules.traces.errors import TraceError
from schedules.traces.formats import Reading
from schedules.traces.importing import Wishes, made_of
from schedules.traces.lengths import task
from schedules.traces.parsing import Wanting

LENGTH_S, JUDGED_S, EVERY_S, HORIZON_S, SEED = 2 * DAY_S, DAY_S / 2, 600.0, 900.0, 17
COLD_START_S, SIZE_BYTES, ROOM_SHARE = 10.0, 16 * GIB, 0.2


def judged(past: Past, since_s: float, every_s: float, cv: float | None = None) -> tuple[Backtest, Backtest]:
    """By what holding costs, and where there is so much room; with one who is told, where gaps have a CV."""
    methods, models = [*FORECASTERS.values(), *([] if cv is None else [Told.of(cv)])], len(past.models)
    room_bytes = max(1, round(ROOM_SHARE * models)) * SIZE_BYTES
    free, tight = (
        backtest(
            past,
            methods,
            same_prices(models, COLD_START_S, SIZE_BYTES, room_bytes=room),
            since_s,
            past.until_s,
            every_s,
            HORIZON_S,
        )
        for room in (None, room_bytes)
    )
    return free, tight


def results(kind: str, free: Backtest, tight: Backtest) -> list[Result]:
    """Ours against keep-alive and against the best of the others."""
    rows, roomy = ({row.method: row for row in each.table()} for each in (free, tight))
    other = min(BASELINES, key=lambda method: rows[method.name].cost_s).name
    ours, best = rows[DEFAULT], rows[other]
    return [
        Result(f"forecast_cost_over_keep_alive_{kind}", ours.relative, "ratio", "lower", 1.0, "fixed keep-alive"),
        Result(f"forecast_cost_over_best_baseline_{kind}", ours.cost_s / best.cost_s, "ratio", "lower", 1.0, other),
        Result(f"forecast_gap_to_oracle_closed_{kind}", free.gap_closed(DEFAULT), "share", "higher", 1.0, "keep-alive"),
        Result(
            f"forecast_cold_starts_at_equal_room_{kind}",
            roomy[DEFAULT].cold_starts / max(roomy["keep-alive"].cold_starts, 1),
            "ratio", "lower", 1.0, "fixed keep-alive, then what was called last",
        ),
        Result(f"forecast_brier_{kind}", ours.brier, "square", "lower", best.brier, other),
    ]  # fmt: skip


def markdown(tables: Mapping[str, tuple[Sequence[Row], Sequence[Row]]]) -> str:
    """Costs relative to keep-alive, a line a method; behind them cold starts with equal room."""
    rows = {
        kind: ({row.method: row for row in free}, {row.method: row for row in tight})
        for kind, (free, tight) in tables.items()
    }
    methods = [*FORECASTERS, "told", "oracle"]
    lines = ["| method | " + " | ".join(rows) + " |", "|---|" + "---|" * len(rows)]
    for method in methods:
        cells = [
            f"{free[method].relative:.2f} · {tight[method].cold_starts:,}" if method in free else ""
            for free, tight in rows.values()
        ]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _recorded(path: Path, models: int) -> Past:
    parsed = take(path, Reading(), Wanting("model", task("chat"), 1024, SEED), lambda _: None)
    wishes = Wishes() if len(parsed.trace.models) > 1 else Wishes(models=models, seed=SEED)
    return recorded(made_of([parsed.trace], wishes, have_models=parsed.has_models))


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--trace", type=Path, help="a recorded trace, judged instead")
    options.add_argument("--models", type=int, default=50, help="that requests without models are spread over")
    options.add_argument("--markdown", action="store_true", help="print the tables of docs/forecast.md")
    asked = options.parse_args()
    tests: dict[str, tuple[Backtest, Backtest]] = {}
    try:
        if asked.trace is not None:
            past = _recorded(asked.trace, asked.models)
            tests[asked.trace.stem] = judged(past, past.until_s / 4 // 60 * 60, 60.0)
        else:
            for kind in KINDS:
                tests[kind] = judged(made(kind, LENGTH_S, SEED), LENGTH_S - JUDGED_S, EVERY_S, CVS.get(kind))
    except (NotATrace, TraceError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    tables = {kind: (free.table(), tight.table()) for kind, (free, tight) in tests.items()}
    if asked.markdown:
        print(markdown(tables))
        print(", ".join(f"{key} {value}" for key, value in machine().items() if value is not None))
        return 0
    found = [result for kind, both in tests.items() for result in results(kind, *both)]
    by_method = {kind: [[asdict(row) for row in table] for table in both] for kind, both in tables.items()}
    report("forecasts", found, asked.json, by_method=by_method)
    return 0


if __name__ == "__main__":
    sys.exit(main())
