"""A capacity plan as a person sees it at the terminal."""

from collections.abc import Iterator
from math import isclose

from rich.console import RenderableType
from rich.text import Text

from firsttoken.views.tables import Table
from flows.capacity.curve import attains, monthly
from flows.capacity.words import goal, machines, money, percent, seconds, used
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_COLUMNS = 96
"""Of the curve beside its bars."""


def shown(plan: Plan, width: int) -> Iterator[RenderableType]:
    """The answer, attainment against cost, what else would be, and what is to be known of it."""
    yield Text(plan.sentence, style="bold")
    yield _curve(plan, max(8, min(40, width - _COLUMNS)))
    told = plan.chosen or max(plan.tried, key=lambda trial: trial.attained, default=None)
    if told is not None:
        yield _figures(told)
    if plan.what_ifs:
        yield _what_ifs(plan)
    for heading, text in (("what binds", plan.binding), *(("note", note) for note in plan.notes)):
        if text:
            yield Text.assemble((f"{heading}: ", "bold"), text)


def _curve(plan: Plan, bars: int) -> Table:
    title = f"Attainment against cost; {goal(plan.attainment)} is wanted"
    table = Table("cluster", title=title, title_justify="left", box=None)
    for column in ("an hour", "a month", "attained", "first token, 95 %", "accelerators"):
        table.add_column(column, justify="right")
    table.add_column("")
    for best in plan.curve:
        chosen = plan.chosen is not None and isclose(best.price_per_h, plan.chosen.price_per_h)
        trial = (
            plan.chosen if plan.chosen is not None and chosen else best
        )  # it may do with less dram and ssd than the best
        table.add_row(
            Text(f"{'→' if chosen else ' '} {machines(trial.cluster)}"),
            money(trial.price_per_h, plan.currency),
            money(monthly(trial), plan.currency),
            percent(trial.attained),
            seconds(trial.ttft_s.get("p95")),
            used(trial.usage.device),
            _bar(trial.attained, bars, "green" if attains(trial.attained, plan.attainment) else "yellow"),
            style="bold" if chosen else "",
        )
    return table


def _bar(share: float, width: int, style: str) -> Text:
    eighths = round(share * width * 8)
    return Text("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip(), style=style, no_wrap=True)


def _figures(trial: Trial) -> Table:
    table = Table("", title=f"On {machines(trial.cluster)}", title_justify="left", box=None)
    for column in ("50 %", "95 %", "99 %"):
        table.add_column(column, justify="right")
    rows = (
        ("first token", trial.ttft_s),
        ("first token, cold", trial.cold_ttft_s),
        ("every other token", trial.tpot_s),
    )
    for name, found in rows:
        table.add_row(name, *(seconds(found.get(which)) for which in ("p50", "p95", "p99")))
    table.add_row("started cold", percent(trial.cold))
    table.add_row("not answered", percent(trial.unserved))
    return table


def _what_ifs(plan: Plan) -> Table:
    table = Table("what if", title="What else would be", title_justify="left", box=None)
    table.add_column("attained", justify="right")
    table.add_column("")
    for each in plan.what_ifs:
        table.add_row(Text(each.name), percent(each.trial.attained), Text(each.sentence))
    return table
