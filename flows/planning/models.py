"""Which models stand for those that a trace names, and what is wanted of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from flows.errors import Unclear
from flows.planning.typed import by_name, listed, patterns, seconds
from schedules.capacity.shapes import shape
from schedules.facts import Model
from schedules.objectives import Objectives
from schedules.simulation.scenario import Offered
from schedules.traces.trace import Target, Trace


class Published(Protocol):
    """The models of a store."""

    def names(self) -> Sequence[str]:
        """Of all of them. StorageError if the store does not answer."""
        ...

    def model(self, name: str) -> Model:
        """One of them. StorageError if it cannot be opened."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What is wanted of every model: its service levels as typed, "" for those that the trace has itself; how long a replica
    stays, over how many nodes a cold model is spread at most, its room for KV cache, and how many replicas there may be."""

    slo_ttft: str
    slo_tpot: str
    keep_alive: str
    degree: int
    kv_tokens: int
    most_replicas: int


def offered(trace: Trace, told: str, published: Published, wanted: Wanted) -> tuple[tuple[Offered, ...], str]:
    """The models of the trace, in its order, and a sentence on which stand for them.

    `told` has PATTERN=MODEL for those of the trace that fit, and MODEL for the others, in turn if there are several, the most
    called first. A MODEL is published, or one that schedules.capacity.shapes knows. Where nothing is told it is the published
    model of the same name, and for the others all that are published in turn.
    """
    names = _stand_ins(trace, told, published)
    found = dict[str, Model]()
    for name in dict.fromkeys(names):
        found[name] = published.model(name) if name in set(published.names()) else shape(name).model(name)
    models = [_called(found[stands], name) for stands, name in zip(names, trace.models, strict=True)]
    objectives = _objectives(trace, wanted)
    both = zip(models, objectives, strict=True)
    return tuple(Offered(model, each) for model, each in both), _sentence(trace, names)


def _stand_ins(trace: Trace, told: str, published: Published) -> list[str]:
    entries = patterns(told, str, "models")
    by_pattern = [(pattern, name) for pattern, name in entries if pattern is not None]
    if not entries:
        by_pattern = [(name, name) for name in published.names() if name in trace.models]
    in_turn = [name for pattern, name in entries if pattern is None] or ([] if entries else list(published.names()))
    fits = by_name(",".join(f"{pattern}={name}" for pattern, name in by_pattern), trace.models, str, "models")
    rest = [place for place, name in enumerate(fits) if name is None]
    if rest and not in_turn:
        why = "" if entries else ", and none is published: give sizes, as --models 8b,70b (`models` of the flow)"
        raise Unclear(f"nothing says which model stands for {listed([trace.models[place] for place in rest])}{why}")
    calls = np.bincount(trace.model, minlength=len(trace.models))
    for number, place in enumerate(sorted(rest, key=lambda place: -int(calls[place]))):
        fits[place] = in_turn[number % len(in_turn)]
    return [name for name in fits if name is not None]


def _called(model: Model, name: str) -> Model:
    """The same under another name, with weights of its own."""
    if model.name == name:
        return model
    units = tuple(replace(unit, digest=f"{name}/{unit.digest}") for unit in model.units)
    return replace(model, name=name, digest=f"{name}/{model.digest}", units=units)


def _objectives(trace: Trace, wanted: Wanted) -> list[Objectives]:
    targets = trace.targets or (Target(),) * len(trace.models)
    ttft_s = by_name(wanted.slo_ttft, trace.models, lambda told: _level(told, "the TTFT"), "the TTFT")
    tpot_s = by_name(wanted.slo_tpot, trace.models, lambda told: _level(told, "the TPOT"), "the TPOT")
    keep_alive_s = seconds(wanted.keep_alive, "the keep-alive")
    try:
        return [
            Objectives(
                ttft_s=target.ttft_s if ttft is None else ttft,
                tpot_s=target.tpot_s if tpot is None else tpot,
                min_replicas=0,
                max_replicas=wanted.most_replicas,
                keep_alive_s=keep_alive_s,
                priority=0,
                max_degree=wanted.degree,
                kv_tokens=wanted.kv_tokens,
            )
            for target, ttft, tpot in zip(targets, ttft_s, tpot_s, strict=True)
        ]
    except ValueError as error:
        raise Unclear(f"models cannot have {error}") from error


def _level(told: str, what: str) -> float:
    value = seconds(told, what)
    if value == 0.0:
        raise Unclear(f"{what}: nothing comes within 0 s")
    return value


def _sentence(trace: Trace, names: Sequence[str]) -> str:
    others = Counter(stands for stands, name in zip(names, trace.models, strict=True) if stands != name)
    if not others:
        return ""
    told = [f"{count} like {name}" for name, count in others.most_common()]
    return f"Models of the trace are taken for what they are not published as: {listed(told)}."
