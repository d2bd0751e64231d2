"""Trials in figures."""

from collections.abc import Iterable
from xml.etree.ElementTree import Element

from flows.capacity.curve import attains, monthly
from flows.capacity.markup import el
from flows.capacity.tables import beyond, table
from flows.capacity.words import budgets, machines, money, percent, portion, seconds
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial

PERCENTILES = ("p50", "p95", "p99")
_HEADS = (
    "dram", "ssd", "a month", "an hour", "attained", "enough", "TTFT p50", "p95", "p99", "cold p99", "TPOT p99", "cold",
    "unserved", "a million tokens", "requests",
)  # fmt: skip


def everything(plan: Plan) -> Element:
    """All clusters that were tried, by the names that say what they are."""
    tried = sorted(plan.tried, key=lambda trial: (trial.price_per_h, -trial.attained, trial.name))
    marked = next((place for place, trial in enumerate(tried) if trial == plan.chosen), None)
    about = "The cheapest first" + ("" if marked is None else "; the chosen one stands out")
    rows = ([trial.name, *_figures(plan, trial)] for trial in tried)
    return el("div", table(("cluster", *_HEADS), rows, about, marked), beyond(len(tried)))


def what_would_be(plan: Plan, named: Iterable[tuple[str, Trial]]) -> Element:
    """Trials by what was other in them."""
    rows = ([name, machines(trial.cluster), *_figures(plan, trial)] for name, trial in named)
    return table(("what if", "cluster", *_HEADS), rows, "What would be")


def _figures(plan: Plan, trial: Trial) -> list[str]:
    return [
        budgets(trial.cluster.dram_budget_bytes),
        budgets(trial.cluster.ssd_budget_bytes),
        money(monthly(trial), plan.currency),
        money(trial.price_per_h, plan.currency),
        percent(trial.attained),
        "✓ yes" if attains(trial.attained, plan.attainment) else "✗ no",
        *(seconds(trial.ttft_s.get(each)) for each in PERCENTILES),
        seconds(trial.cold_ttft_s.get("p99")),
        seconds(trial.tpot_s.get("p99")),
        portion(trial.cold),
        portion(trial.unserved),
        money(trial.price_per_mtok, plan.currency),
        f"{trial.requests:,}",
    ]
