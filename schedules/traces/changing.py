"""Traces from traces. What needs chance is given a seed; each change leaves a word in the provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

import numpy as np

from schedules.traces.errors import BadWish
from schedules.traces.lengths import Pair, Task, draw, task
from schedules.traces.lineup import Served, popularity
from schedules.traces.renewals import arrivals_within
from schedules.traces.trace import COLUMNS, LONGEST_S, MOST_REQUESTS, Provenance, Target, Trace, in_order

MOST_SHIFT_S = 3600.0
"""Copies of a trace are laid so far apart at most: a day's wave stays what it is."""


def during(trace: Trace, start_s: float, end_s: float) -> Trace:
    """What comes from `start_s` until before `end_s`, which is then all there is: it begins at 0."""
    if not 0 <= start_s < min(end_s, trace.duration_s):
        raise BadWish(f"from {start_s:g} to {end_s:g} s is nothing of a trace of {trace.duration_s:g} s")
    end_s = min(end_s, trace.duration_s)
    begin, end = np.searchsorted(trace.at_s, [start_s, end_s])
    part = slice(begin, len(trace) if end_s == trace.duration_s else end)
    columns = {name: getattr(trace, name)[part] for name in COLUMNS} | {"at_s": trace.at_s[part] - start_s}
    return trace.after(f"from {start_s:g} s to {end_s:g} s", **columns, duration_s=end_s - start_s)


def thinned(trace: Trace, rate_per_s: float, seed: int) -> Trace:
    """As many of the requests, by chance, as make that rate in the mean. BadWish if there are not so many."""
    wanted = rate_per_s * trace.duration_s
    if not (isfinite(wanted) and wanted > 0) or round(wanted) > len(trace):
        has = len(trace) / trace.duration_s if trace.duration_s else 0.0
        raise BadWish(
            f"a trace of {has:.6g} requests a second cannot be thinned to {rate_per_s:g}: speed it up, or redraw it"
        )
    rng = np.random.default_rng(seed)
    which = np.sort(rng.choice(len(trace), round(wanted), replace=False, shuffle=False))
    return trace.only(which, f"thinned to {rate_per_s:g} requests a second", seed)


def sped(trace: Trace, factor: float) -> Trace:
    """The same in `factor` times less time."""
    if not (isfinite(factor) and factor > 0) or trace.duration_s / factor > LONGEST_S:
        raise BadWish(f"time cannot go {factor:g} times as fast")
    duration_s = trace.duration_s / factor
    return trace.after(
        f"{factor:g} times as fast", at_s=np.minimum(trace.at_s / factor, duration_s), duration_s=duration_s
    )


def denser(trace: Trace, factor: float, seed: int) -> Trace:
    """`factor` times as many requests in the same time, each model's as bursty as they are: the trace once for each whole of
    the factor, and once more in part. Below 1 it is a part of the trace, by chance.

    In each copy the requests of a model come later than in the trace by up to an hour, the same for all of them, and those
    that would come after the end come at the begin instead.
    """
    if not (isfinite(factor) and factor > 0) or len(trace) * factor > MOST_REQUESTS:
        raise BadWish(f"{len(trace):,} requests cannot be {factor:g} times as many")
    rng = np.random.default_rng(seed)
    wholes, rest = int(factor), round((factor - int(factor)) * len(trace))
    which = [np.arange(len(trace))] * wholes
    if rest:
        which.append(np.sort(rng.choice(len(trace), rest, replace=False, shuffle=False)))
    later_s = rng.random((len(which), len(trace.models))) * min(MOST_SHIFT_S, trace.duration_s)
    later_s[:1] = 0.0
    at_s = [trace.at_s[own] + later[trace.model[own]] for own, later in zip(which, later_s, strict=True)]
    come_s = np.concatenate(at_s) if at_s else np.empty(0)
    come_s = np.where(come_s > trace.duration_s, come_s - trace.duration_s, come_s)
    order = np.argsort(come_s, kind="stable")
    chosen = np.concatenate(which)[order] if which else np.empty(0, np.int64)
    return trace.only(chosen, f"{factor:g} times as many requests", seed, at_s=come_s[order])


def redrawn(trace: Trace, cv: float, window_s: float, seed: int) -> Trace:
    """New arrivals: of each model in each window about as many as there were, with gamma gaps of that CV.

    AlpaServe, and by its code HydraServe, makes a trace of functions burstier in this way, but multiplies the CV that it
    finds in a window, and passes over windows with fewer than three requests. Lengths are those of the model's own requests
    in the window, by chance.
    """
    if not (window_s > 0 and trace.duration_s / window_s * max(1, len(trace.models)) <= 50_000_000):
        raise BadWish(f"arrivals cannot be drawn anew every {window_s:g} s of {trace.duration_s:g}")
    rng = np.random.default_rng(seed)
    windows = np.minimum(trace.at_s // window_s, max(0, np.ceil(trace.duration_s / window_s) - 1)).astype(np.int64)
    order = np.lexsort((windows, trace.model))
    model, window = trace.model[order], windows[order]
    begins = np.flatnonzero(np.diff(model, prepend=-1).astype(bool) | np.diff(window, prepend=-1).astype(bool))
    at_s, which = [np.empty(0)], [np.empty(0, np.int64)]
    for first, end in zip(begins, np.append(begins[1:], len(model)), strict=True):
        start_s = float(window[first]) * window_s
        length_s = min(window_s, trace.duration_s - start_s)
        if length_s > 0:
            drawn = arrivals_within(length_s, (end - first) / length_s, cv, rng)
            at_s.append(start_s + drawn)
            which.append(order[rng.integers(first, end, len(drawn))])
    arrivals, chosen = np.concatenate(at_s), np.concatenate(which)
    by_time = np.argsort(arrivals, kind="stable")
    step = f"drawn anew every {window_s:g} s with a CV of {cv:g}"
    at = np.minimum(arrivals[by_time], trace.duration_s)
    return trace.only(chosen[by_time], step, seed, at_s=at)


def round_robin(trace: Trace, names: Sequence[str]) -> Trace:
    """The models of the trace, from the one that is called most, take the names in turn, again and again."""
    calls = np.bincount(trace.model, minlength=len(trace.models))
    mapped = np.empty(len(trace.models), np.int32)
    mapped[np.argsort(-calls, kind="stable")] = np.arange(len(trace.models)) % len(names)
    step = f"{len(trace.models)} models over {len(names)} in turn"
    return trace.after(step, model=mapped[trace.model], models=tuple(names), targets=())


def spread(trace: Trace, names: Sequence[str], skew: float, seed: int) -> Trace:
    """Each request for one of the names by chance, the first the likeliest."""
    drawn = np.random.default_rng(seed).choice(len(names), len(trace), p=popularity(len(names), skew))
    step = f"spread over {len(names)} models with a skew of {skew:g}"
    return trace.after(step, seed, model=drawn.astype(np.int32), models=tuple(names), targets=())


def renamed(trace: Trace, names: Mapping[str, str]) -> Trace:
    """Models under other names; what gets one name becomes one model. BadWish for a name that the trace does not have."""
    for name in names:
        if name not in trace.models:
            raise BadWish(f"the trace has no model {name!r} to rename: it has {few(trace.models)}")
    told = [names.get(name, name) for name in trace.models]
    kept = {name: i for i, name in reversed(list(enumerate(told)))}
    models = tuple(dict.fromkeys(told))
    place = {name: i for i, name in enumerate(models)}
    mapped = np.array([place[name] for name in told], np.int32)
    targets = tuple(trace.targets[kept[name]] for name in models) if trace.targets else ()
    return trace.after(f"models renamed: {len(names)}", model=mapped[trace.model], models=models, targets=targets)


def merged(traces: Sequence[Trace], *, in_turn: bool = False) -> Trace:
    """The requests of all as one trace, from the begin of each, or one trace after the other; what has the same name is one
    model. Targets are the first trace's that has the model."""
    if len(traces) == 1:
        return traces[0]
    models = tuple(dict.fromkeys(name for trace in traces for name in trace.models))
    place = {name: i for i, name in enumerate(models)}
    starts_s = np.cumsum([0.0, *(trace.duration_s for trace in traces)]) if in_turn else np.zeros(len(traces) + 1)
    at_s = np.concatenate([trace.at_s + start for trace, start in zip(traces, starts_s, strict=False)])
    own = [np.array([place[name] for name in trace.models], np.int32)[trace.model] for trace in traces]
    tokens = [np.concatenate([getattr(trace, name) for trace in traces]) for name in COLUMNS[2:]]
    duration_s = float(starts_s[-1]) if in_turn else max(trace.duration_s for trace in traces)
    source = " + ".join(trace.provenance.source for trace in traces)
    steps = (f"{len(traces)} traces {'one after the other' if in_turn else 'at once'}",)
    before = tuple(f"{trace.provenance.source}: {step}" for trace in traces for step in trace.provenance.steps)
    seeds = [trace.provenance.seed for trace in traces if trace.provenance.seed is not None]
    provenance = Provenance(source, before + steps, seeds[0] if seeds else None)
    result = in_order(at_s, (np.concatenate(own), *tokens), models, duration_s, provenance)
    if not any(trace.targets for trace in traces):
        return result
    known = {name: target for t in reversed(traces) for name, target in zip(t.models, t.targets, strict=False)}
    return replace(result, targets=tuple(known.get(name, Target()) for name in models))


def truncated(trace: Trace, max_prompt_tokens: int) -> Trace:
    """Prompts cut at that length."""
    if max_prompt_tokens < 1:
        raise BadWish("a prompt has one token at least")
    cut = np.minimum(trace.prompt_tokens, max_prompt_tokens)
    return trace.after(f"prompts cut at {max_prompt_tokens} tokens", prompt_tokens=cut)


def with_lengths(trace: Trace, what: Task | Trace | Sequence[str], max_tokens: int, seed: int) -> Trace:
    """Lengths drawn anew: for all from a task or another trace, or of each model by the name of its own task. Clients ask for
    `max_tokens`, and no answer is longer."""
    rng = np.random.default_rng(seed)
    prompt, answer = draw(what, len(trace), rng) if isinstance(what, Task | Trace) else _by_task(trace, what, rng)
    most = np.full(len(trace), max_tokens, np.int32)
    return trace.after(
        "lengths drawn", seed, prompt_tokens=prompt, answer_tokens=np.minimum(answer, most), max_tokens=most
    )


def _by_task(trace: Trace, tasks: Sequence[str], rng: np.random.Generator) -> Pair:
    prompt, answer = np.empty(len(trace), np.int32), np.empty(len(trace), np.int32)
    names = sorted(set(tasks))
    kinds = np.array([names.index(name) for name in tasks], np.int32)[trace.model]
    for i, name in enumerate(names):
        which = np.flatnonzero(kinds == i)
        prompt[which], answer[which] = draw(task(name), len(which), rng)
    return prompt, answer


def as_served(trace: Trace, lineup: Sequence[Served], max_tokens: int, seed: int) -> Trace:
    """A trace of just these models with lengths of their tasks and with their targets."""
    drawn = with_lengths(trace, [served.task for served in lineup], max_tokens, seed)
    return replace(drawn, targets=tuple(served.target for served in lineup))


def few(names: Sequence[str]) -> str:
    """The first names of many, for a person."""
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
