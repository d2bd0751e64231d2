"""From wishes to a plan: what is known of them already is used, the rest is played."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.front_end import FrontEnd
from flows.planning.asking import Known, Wishes, question_of
from flows.planning.kept import Kept
from flows.planning.models import Published
from flows.planning.sweeping import Crew, Report, sweep
from schedules.capacity.plan import Plan
from schedules.capacity.playing import try_out
from schedules.capacity.question import PlanQuestion
from schedules.capacity.searching import Search
from schedules.capacity.spoken import digest
from schedules.traces.happened import trace_of

_SETTINGS = {
    "ttft_slo_s": "ttft_s",
    "tpot_slo_s": "tpot_s",
    "keep_alive_s": "keep_alive_s",
    "degree": "max_degree",
    "kv_tokens": "kv_tokens",
    "max_replicas": "max_replicas",
}
"""Of the front end, and what they are of a model's objectives."""


@dataclass(frozen=True)
class Means:
    """What a plan is made with: who plays, where what was played is kept, and whether what lies there already is used."""

    crew: Crew
    folder: Path
    resume: bool = True


async def known_of(wishes: Wishes, front_end: FrontEnd, now_s: float) -> Known:
    """What the wishes are about that the front end knows. FrontEndAway, or BadTrace if nothing was asked."""
    nodes = await front_end.nodes() if wishes.of_cluster else ()
    if (past_s := wishes.past_s) is None:
        return Known(nodes)
    asked = await front_end.requests(now_s - past_s, now_s)
    return Known(nodes, await asyncio.to_thread(trace_of, asked, now_s - past_s, now_s, "history"))


async def answered(wishes: Wishes, published: Published, known: Known, means: Means, report: Report) -> Plan:
    """The plan. What flows.planning.asking.question_of raises, BadQuestion if nothing can answer it, SweepFailed."""
    asked = await asyncio.to_thread(question_of, wishes, published, known)
    question = asked.question
    search = Search(question)
    kept = Kept.open(means.folder, digest(question), resume=means.resume)
    plan = await sweep(search, question, kept, means.crew, report, try_out)
    return replace(plan, notes=(*asked.notes, *plan.notes), settings=_with_front_end(plan, question))


def _with_front_end(plan: Plan, question: PlanQuestion) -> Mapping[str, Mapping[str, Any]]:
    """The settings of each type of machine, with the front end's as they were played where all models have the same."""
    told: dict[str, Any] = {}
    for setting, name in _SETTINGS.items():
        values = {getattr(offered.objectives, name) for offered in question.models}
        if len(values) == 1 and (value := values.pop()) is not None:
            told[f"frontend.{setting}"] = value
    return {kind: {**settings, **told} for kind, settings in plan.settings.items()}
