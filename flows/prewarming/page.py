"""A plan of prewarming as a person reads it in Prefect's UI: a table of what is staged, and a page on why."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flows import markdown
from flows.artifacts import Row
from flows.capacity.words import capital, count, portion, seconds, size
from flows.foreseeing.carry import Carried
from flows.markdown import text
from flows.prewarming.chosen import Chosen
from flows.prewarming.hits import TIERS, Hits, together
from flows.prewarming.picture import TITLE, lanes_of, picture
from schedules.foresight.forecast import Forecast
from schedules.foresight.past import Past
from schedules.foresight.plan import Plan, Staging

_LONGEST = 50
"""Lines of a table on the page."""


@dataclass(frozen=True)
class Shown:
    """What a page is about. `before` is what had been expected of the minutes until now; `hits` those since `since_s`;
    `notes` are sentences on what else came of the run."""

    past: Past
    forecast: Forecast
    before: Forecast | None
    plan: Plan
    chosen: Chosen
    hits: Sequence[Hits]
    since_s: float
    notes: Sequence[str] = ()
    dry_run: bool = False


def rows_of(plan: Plan, carried: Mapping[int, Carried]) -> list[Row]:
    """The plan's stagings in their order; `carried` by their places, those that are missing were not begun."""
    return [_row(place, staging, carried.get(place)) for place, staging in enumerate(plan.stagings)]


def _row(place: int, staging: Staging, carried: Carried | None) -> Row:
    return {
        "order": place + 1,
        "model": staging.key.name,
        "node": staging.node,
        "tier": staging.tier,
        "units": len(staging.units),
        "bytes": staging.size_bytes,
        "from": staging.source,
        "before": _clock(staging.before_s),
        "saves_s": round(staging.saved_s, 3),
        "reason": staging.reason,
        "outcome": "planned" if carried is None else carried.why or "brought",
        "fetched_bytes": 0 if carried is None else carried.fetched_bytes,
        "seconds": 0.0 if carried is None else round(carried.seconds, 3),
    }


def page_of(shown: Shown) -> str:
    """Markdown."""
    plan, now_s = shown.plan, shown.plan.made_s
    lanes = lanes_of(shown.past, shown.forecast, shown.before)
    parts = [
        f"**{sentence(plan)}**",
        *(["*A dry run: nothing of it was done.*"] if shown.dry_run else []),
        *(f"*{text(note)}*" for note in shown.notes),
        markdown.picture(TITLE, picture(lanes, now_s)),
        *_kept(plan),
        *_expected(shown.forecast),
        *_hits(shown.hits, shown.since_s),
        *_left_out(plan),
        "**By what it was planned**",
        "\n".join(f"- {text(line)}" for line in shown.chosen.said),
    ]
    return "\n\n".join(parts)


def sentence(plan: Plan) -> str:
    """What it comes to."""
    if not plan.stagings and not plan.kept:
        return f"Nothing is to be brought, and no replica to be kept, until {_clock(plan.until_s)}"
    nodes, models = {each.node for each in plan.stagings}, {each.key for each in plan.stagings}
    staged = f"{size(plan.moved_bytes)} over networks to {count(len(nodes), 'node')} for {count(len(models), 'model')}"
    kept = count(sum(each.replicas for each in plan.kept), "replica")
    saved_s = sum(each.saved_s for each in plan.stagings) + sum(each.saved_s for each in plan.kept)
    said = f"{count(len(plan.stagings), 'staging')} ({staged}); {kept} to be up until {_clock(plan.until_s)}"
    return f"{capital(said)}: {seconds(saved_s)} of cold starts are expected to be saved"


def _kept(plan: Plan) -> Iterator[str]:
    if plan.kept:
        rows = [
            (text(each.key.name), text(each.reason), str(each.replicas), f"{each.saved_s:.2f}") for each in plan.kept
        ]
        yield markdown.table(("up without being asked for", "why", "replicas", "saves, s"), rows[:_LONGEST], 2)


def _expected(forecast: Forecast) -> Iterator[str]:
    order = sorted(range(len(forecast.models)), key=lambda index: -float(forecast.probability[index]))[:_LONGEST]
    rows = [
        (
            text(forecast.models[index]),
            text(forecast.methods[index]) if forecast.methods else "",
            portion(float(forecast.probability[index])),
            f"{forecast.total[index]:.3g}",
            f"{forecast.low[index]:.3g} to {forecast.high[index]:.3g}",
        )
        for index in order
    ]
    if rows:
        within = f"called within {forecast.horizon_s / 60:.0f} min"
        yield markdown.table(("model", "forecast by", within, "requests", "four times of five"), rows, 3)


def _hits(hits: Sequence[Hits], since_s: float) -> Iterator[str]:
    since = f"since {_clock(since_s)}"
    if not hits:
        yield f"No cold starts {since}."
        return
    rows = [_hit(each) for each in (together(hits, "all"), *hits[:_LONGEST])]
    yield f"**Where cold starts {since} found their units**"
    yield markdown.table(("model", "cold starts", *TIERS, "TTFT, mean", "longest"), rows, len(TIERS) + 3)


def _hit(each: Hits) -> tuple[str, ...]:
    shares = (portion(each.share(tier)) if each.units.get(tier) else "0" for tier in TIERS)
    return (text(each.model), str(each.starts), *shares, seconds(each.ttft_s / each.starts), seconds(each.worst_s))


def _left_out(plan: Plan) -> Iterator[str]:
    if not plan.left_out:
        return
    yield f"**Left out: {count(len(plan.left_out), 'model')}**"
    if len(plan.left_out) <= _LONGEST:
        yield markdown.table(("model", "why"), [(text(each.model), text(each.reason)) for each in plan.left_out])
    else:
        reasons = Counter(each.reason for each in plan.left_out).most_common(_LONGEST)
        yield markdown.table(("why", "models"), [(text(reason), str(models)) for reason, models in reasons], 1)


def _clock(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%H:%M:%S} UTC"
