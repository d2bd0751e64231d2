"""A plan of prewarming, as a person sees it at the terminal and as a script reads it."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.filesize import decimal
from rich.text import Text

from firsttoken.views.tables import Table
from firsttoken.views.traces import duration, short
from flows.foreseeing.carry import Carried
from flows.foreseeing.make import Made
from schedules.foresight.plan import Budgets, Staging
from schedules.foresight.spoken import plan_as_json


def of_plan(made: Made, budgets: Budgets) -> Iterator[RenderableType]:
    """What goes where before when and why, what is kept, what is left out, and what of each node's budgets that takes."""
    plan = made.plan
    yield Text(plan_sentence(made), style="bold")
    if plan.stagings:
        yield _stagings(plan.stagings, plan.made_s)
    if plan.kept:
        table = Table("model", title="Replicas that are there at least", title_justify="left", box=None)
        for column in ("replicas", "saves"):
            table.add_column(column, justify="right")
        table.add_column("why")
        for kept in plan.kept:
            table.add_row(Text(short(kept.key.name)), str(kept.replicas), f"{kept.saved_s:.3g} s", Text(kept.reason))
        yield table
    if plan.stagings:
        yield _budgets(made, budgets)
    if plan.left_out:
        table = Table("model", "why", title="Left out", title_justify="left", box=None)
        for each in plan.left_out:
            table.add_row(Text(short(each.model)), Text(each.reason))
        yield table


def plan_sentence(made: Made) -> str:
    """The plan in a line."""
    plan = made.plan
    until = time.strftime("%H:%M:%S", time.localtime(plan.until_s))
    replicas = sum(kept.replicas for kept in plan.kept)
    return (
        f"{_many(len(made.forecast.models), 'model')} looked at; until {until}: {_many(len(plan.stagings), 'staging')}, "
        f"{decimal(plan.moved_bytes)} over networks, {_many(replicas, 'replica')} kept, "
        f"{_many(len(plan.left_out), 'model')} left out"
    )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _stagings(stagings: Sequence[Staging], now_s: float) -> Table:
    table = Table("node", "tier", "model", title="Brought before it is asked for", title_justify="left", box=None)
    for column in ("units", "size", "from", "within", "saves"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for each in stagings:
        table.add_row(
            each.node, each.tier, Text(short(each.key.name)), str(len(each.units)), decimal(each.size_bytes), each.source,
            duration(max(1.0, each.before_s - now_s)), f"{each.saved_s:.3g} s", Text(each.reason),
        )  # fmt: skip
    return table


def _budgets(made: Made, budgets: Budgets) -> Table:
    """By node, what is brought to its tiers of what may be there."""
    brought: Counter[tuple[str, str]] = Counter()
    for each in made.plan.stagings:
        brought[each.node, each.tier] += each.size_bytes
    table = Table("node", title="Of the budgets", title_justify="left", box=None)
    for column in ("to dram", "to ssd"):
        table.add_column(column, justify="right")
    for node in made.ground.view.nodes:
        dram = f"{decimal(brought[node.name, 'dram'])} of {decimal(int(node.dram_bytes * budgets.dram_share))}"
        ssd = f"{decimal(brought[node.name, 'ssd'])} of {decimal(int(node.ssd_bytes * budgets.ssd_share))}"
        table.add_row(node.name, dram, ssd)
    return table


def plan_figures(made: Made, carried: Sequence[Carried] | None) -> Mapping[str, Any]:
    """The plan, what it was made for and, if it was carried out, what became of it; for a script."""
    forecast = made.forecast
    return {
        "plan": plan_as_json(made.plan),
        "moved_bytes": made.plan.moved_bytes,
        "models": [
            {"model": name, "probability": float(probability), "expected": float(total)}
            for name, probability, total in zip(forecast.models, forecast.probability, forecast.total, strict=True)
        ],
        "carried": None if carried is None else [
            {
                "model": each.staging.key.name, "node": each.staging.node, "tier": each.staging.tier,
                "fetched_bytes": each.fetched_bytes, "failed": each.why or None,
            }
            for each in carried
        ],
    }  # fmt: skip
