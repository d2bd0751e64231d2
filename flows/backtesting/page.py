"""A backtest as a person reads it in Prefect's UI."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flows import markdown
from flows.artifacts import Row
from flows.backtesting.picture import COSTS, OVER_TIME, costs, over_time
from flows.backtesting.playing import Played, gap_closed
from flows.capacity.words import portion, seconds, size
from flows.markdown import text
from schedules.foresight.backtest import Backtest, Judged
from schedules.foresight.past import Past

_LONGEST = 50


@dataclass(frozen=True)
class Told:
    """What a page is about: what was found of the past, with `forecaster` in use; how requests fared when they were played
    again, if they were; and sentences by what all that is."""

    past: Past
    found: Backtest
    forecaster: str
    played: Sequence[Played]
    said: Sequence[str]


def rows_of(found: Backtest) -> list[Row]:
    """By model and method, models that were called most first, their cheapest method first."""
    calls = found.came.sum(axis=0)
    order = sorted(range(len(found.models)), key=lambda index: (-float(calls[index]), found.models[index]))
    relative = {each.method: found.relative(each.method) for each in found.judged}
    return [
        _row(found, index, each, float(relative[each.method][index]))
        for index in order
        for each in sorted(found.judged, key=lambda each: float(each.cost_s[index]))
    ]


def _row(found: Backtest, index: int, each: Judged, relative: float) -> Row:
    return {
        "model": found.models[index],
        "method": each.method,
        "cost_s": round(float(each.cost_s[index]), 3),
        "over_keep_alive": round(relative, 3),
        "cold_starts": round(float(each.cold_starts[index])),
        "cold_start_s": round(float(each.cold_start_s[index]), 3),
        "held_gib_hours": round(float(each.held_byte_s[index]) / (1 << 30) / 3600, 4),
        "moved_bytes": round(float(each.moved_bytes[index])),
    }


def sentence(told: Told) -> str:
    """What it comes to."""
    best, found = told.found.best(), told.found
    if not found.came.any():
        return "Nobody asked for anything in the time that was judged"
    said = f"Of {len(found.judged)} methods {best} is the cheapest for all {len(found.models)} models together"
    least_s = float(found.by(best).cost_s.sum())
    if told.forecaster != best and least_s and any(each.method == told.forecaster for each in found.judged):
        cost = float(found.by(told.forecaster).cost_s.sum()) / least_s
        said += f"; {told.forecaster}, which is in use, costs {cost:.2f} x as much"
    closed = gap_closed(told.played) if told.played else None
    if closed is not None:
        said += f"; prewarming spares {closed:.0%} of what an oracle would spare"
    return said


def page_of(told: Told) -> str:
    """Markdown."""
    parts = [
        f"**{sentence(told)}.**",
        markdown.picture(COSTS, costs(told.found)),
        *_methods(told.found),
        *_played(told.played),
        *_over_time(told),
        *_choice(told.found),
        "**By what it was judged**",
        "\n".join(f"- {text(line)}" for line in told.said),
    ]
    return "\n\n".join(parts)


def _methods(found: Backtest) -> Iterator[str]:
    heads = (
        "method",
        "cost, s",
        "over keep-alive",
        "cold starts",
        "GiB x h held",
        "p95 wait",
        "of the gap",
        "in bounds",
    )
    rows = [
        (
            text(row.method),
            f"{row.cost_s:.4g}",
            f"{row.relative:.2f}",
            f"{row.cold_starts:,}",
            f"{row.held_gib_hours:.3g}",
            seconds(row.p95_s),
            f"{found.gap_closed(row.method):.0%}",
            portion(row.coverage),
        )
        for row in found.table()
    ]
    yield markdown.table(heads, rows, len(heads) - 1)


def _played(played: Sequence[Played]) -> Iterator[str]:
    if not played:
        return
    yield f"**The same {played[0].requests:,} requests, played again to nodes that hold nothing at the begin**"
    heads = ("", "waited for a start", "TTFT p50", "p95", "p99", "waited in all", "over networks")
    rows = [
        (
            each.name,
            f"{each.cold:,}",
            seconds(each.p50_s),
            seconds(each.p95_s),
            seconds(each.p99_s),
            seconds(each.waited_s),
            size(each.moved_bytes),
        )
        for each in played
    ]
    yield markdown.table(heads, rows, len(heads) - 1)


def _over_time(told: Told) -> Iterator[str]:
    method = told.forecaster if any(each.method == told.forecaster for each in told.found.judged) else told.found.best()
    yield markdown.picture(OVER_TIME, over_time(told.found, method))


def _choice(found: Backtest) -> Iterator[str]:
    best, calls = found.best_by_model(), found.came.sum(axis=0)
    order = np.argsort(-calls, kind="stable")[:_LONGEST]
    rows = []
    for index in order.tolist():
        model = found.models[index]
        ratio = float(found.relative(best[model])[index])
        rows.append((text(model), text(best[model]), f"{ratio:.2f}"))
    yield "**The cheapest method by model**"
    yield markdown.table(("model", "method", "cost over keep-alive"), rows, 1)
    if len(found.models) > _LONGEST:
        yield f"Of {len(found.models)} models those that were called most; the table artifact has all."
