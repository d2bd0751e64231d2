"""Plans, trials and questions as JSON, for files, other programs and people; and whether two questions are the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from schedules.capacity.clusters import Cluster
from schedules.capacity.errors import BadDocument
from schedules.capacity.plan import Plan, WhatIf
from schedules.capacity.question import PlanQuestion
from schedules.capacity.trial import Trial, Usage
from schedules.traces.summary import summarise
from schedules.traces.trace import COLUMNS

VERSION = 1
"""Of what is written; and of what trials mean: those of another version are not taken up again."""
_BROKEN = (KeyError, TypeError, ValueError, AttributeError)


def to_json(plan: Plan) -> dict[str, Any]:
    """All of it: numbers that are not finite are null."""
    return {"version": VERSION, "plan": _finite(asdict(plan))}


def from_json(document: Any) -> Plan:
    """BadDocument if it is none, damaged, or of another version."""
    told = _of_version(document, "plan")
    try:
        chosen = told["chosen"]
        return Plan(
            **{
                **told,
                "chosen": None if chosen is None else _trial(chosen),
                "curve": tuple(map(_trial, told["curve"])),
                "what_ifs": tuple(
                    WhatIf(each["name"], each["sentence"], _trial(each["trial"])) for each in told["what_ifs"]
                ),
                "tried": tuple(map(_trial, told["tried"])),
                "notes": tuple(told["notes"]),
            }
        )
    except _BROKEN as error:
        raise BadDocument("this is no plan of ours, or damaged") from error


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """One trial, as `to_json` has it."""
    return {"version": VERSION, "trial": _finite(asdict(trial))}


def trial_from_json(document: Any) -> Trial:
    """BadDocument as of `from_json`."""
    told = _of_version(document, "trial")
    try:
        return _trial(told)
    except _BROKEN as error:
        raise BadDocument("this is no trial of ours, or damaged") from error


def inputs_of(question: PlanQuestion) -> dict[str, Any]:
    """All that is asked, for people: the trace in figures, models by size and level."""
    trace, summary = question.trace, summarise(question.trace)
    calls = np.bincount(trace.model, minlength=len(trace.models))
    models = [
        {
            "name": name,
            "requests": int(calls[place]),
            "size_bytes": offered.model.size_bytes,
            "layers": offered.model.layers,
            "kv_bytes_per_token": offered.model.kv_bytes_per_token,
            **asdict(offered.objectives),
        }
        for place, (name, offered) in enumerate(zip(trace.models, question.models, strict=True))
    ]
    of_trace = {
        "source": trace.provenance.source,
        "steps": list(trace.provenance.steps),
        "seed": trace.provenance.seed,
        "requests": summary.requests,
        "duration_s": summary.duration_s,
        "rate_per_s": summary.rate_per_s,
        "peak_per_s": summary.peak_per_s,
        "prompt_tokens": int(trace.prompt_tokens.sum()),
        "answer_tokens": int(trace.answer_tokens.sum()),
    }
    told = {
        "trace": of_trace,
        "models": models,
        "choices": asdict(question.choices),
        "attainment": question.attainment,
        "system": _system(question),
        "habits": asdict(question.habits),
        "patience_s": question.patience_s,
        "seed": question.seed,
    }
    found: dict[str, Any] = _finite(told)
    return found


def digest(question: PlanQuestion) -> str:
    """The same for questions whose jobs have the same trials, whatever goal they have; in hex."""
    trace, seen = question.trace, hashlib.sha256()
    for name in COLUMNS:
        seen.update(getattr(trace, name).tobytes())
    told = {
        "version": VERSION,
        "models": [[name, asdict(offered)] for name, offered in zip(trace.models, question.models, strict=True)],
        "duration_s": trace.duration_s,
        "choices": {**asdict(question.choices), "most_machines": 0, "currency": ""},
        "system": _system(question),
        "habits": asdict(question.habits),
        "patience_s": question.patience_s,
        "seed": question.seed,
    }
    seen.update(json.dumps(told, sort_keys=True).encode())
    return seen.hexdigest()


def _system(question: PlanQuestion) -> dict[str, Any]:
    system = question.system
    return {
        "name": system.name,
        "policy": getattr(system.policy(question.seed), "name", ""),
        "consolidate": system.consolidate,
        "keeps": asdict(system.keeps),
        "startup": asdict(system.startup),
        "keep_alive_s": system.keep_alive_s,
    }


def _of_version(document: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict) or not isinstance(document.get(what), dict):
        raise BadDocument(f"this is no {what} of ours")
    if document.get("version") != VERSION:
        raise BadDocument(f"the {what} is of version {document.get('version')}: this program reads version {VERSION}")
    found: Mapping[str, Any] = document[what]
    return found


def _trial(told: Mapping[str, Any]) -> Trial:
    cluster, usage, price = Cluster(**told["cluster"]), Usage(**told["usage"]), told["price_per_mtok"]
    return Trial(
        **{
            **told,
            "cluster": cluster,
            "usage": usage,
            "price_per_mtok": float("inf") if price is None else float(price),
        }
    )


def _finite(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
