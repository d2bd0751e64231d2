"""The answer in one sentence, whether or not there is a cluster."""

from collections import Counter

import numpy as np

from schedules.capacity.answering.words import percent, price, seconds
from schedules.capacity.bounds import Lost, floor_of
from schedules.capacity.question import PlanQuestion
from schedules.capacity.trial import Trial
from schedules.capacity.tried import Tried


def sentence_of(question: PlanQuestion, tried: Tried, lost: Lost, *, cut: bool) -> str:
    """Which cluster it is, or why it is none; `cut` if not all was tried that could have been."""
    goal, chosen = percent(question.attainment), tried.cheapest
    if chosen is not None:
        return (
            f"{chosen.name} for {price(chosen.price_per_h, question.choices.currency)}: the cheapest cluster on which "
            f"{goal} of the requests at least are served as wanted; it attains {percent(chosen.attained)}."
        )
    best = tried.furthest
    at_best = f"at best {percent(best.attained)}, on {best.name}"
    late = int(lost.which.sum())
    if late > (1.0 - question.attainment) * len(question.trace):
        return f"No cluster of these machines can attain {goal}: {why_lost(question, lost)}. It is {at_best}."
    most = question.choices.most_machines
    if cut:
        none = f"No cluster that was tried attains {goal}"
    elif max(trial.cluster.count for trial in tried.all) < most:
        none = f"No cluster that was tried attains {goal}, and more machines do not help"
    else:
        none = f"No cluster of up to {most} of these machines attains {goal}"
    return f"{none}: it is {at_best}, {_worst(question, best)}."


def why_lost(question: PlanQuestion, lost: Lost) -> str:
    """Of the model that loses most: what it takes at least, and what is allowed."""
    counts = np.bincount(question.trace.model[lost.which], minlength=len(question.models))
    place = int(counts.argmax())
    offered, name = question.models[place], question.trace.models[place]
    floor, wanted = floor_of(offered, question.choices.types, question.system), offered.objectives
    own = question.trace.model == place
    reasons = Counter({"prompt": int((lost.prompt & own).sum()), "tokens": int((lost.tokens & own).sum())})
    reasons["first"] = int((lost.first & own).sum())
    reason = max(reasons, key=lambda each: reasons[each])
    share = percent(float(lost.which.mean()))
    ttft_s, tpot_s = wanted.ttft_s or 0.0, wanted.tpot_s or 0.0
    if reason == "tokens":
        why = f"a token of {name!r} takes {seconds(floor.token_s)} at least, and its limit is {seconds(tpot_s)}"
    elif reason == "first":
        why = f"a cold start of {name!r} takes {seconds(floor.cold_s)} at least, and its limit is {seconds(ttft_s)}"
    else:
        longest = int(question.trace.prompt_tokens[own].max())
        took_s = longest * floor.prompt_token_s
        why = f"the longest prompt of {name!r} takes {seconds(took_s)} at least, and its limit is {seconds(ttft_s)}"
    return f"{why}; so {share} of all requests are late anywhere"


def _worst(question: PlanQuestion, trial: Trial) -> str:
    """The model that misses most requests, and whether its cold starts can be fast enough at all."""
    calls = np.bincount(question.trace.model, minlength=len(question.models))
    names = question.trace.models
    missed = {name: calls[i] * (1.0 - trial.by_model.get(name, 1.0)) for i, name in enumerate(names)}
    name = max(missed, key=lambda each: missed[each])
    offered = question.models[names.index(name)]
    sentence = f"where {name!r} misses most, with {percent(trial.by_model.get(name, 1.0))} of its own"
    floor, ttft_s = floor_of(offered, question.choices.types, question.system), offered.objectives.ttft_s
    if ttft_s is not None and floor.cold_s > ttft_s:
        sentence += f": a cold start of it takes {seconds(floor.cold_s)} at least, and its limit is {seconds(ttft_s)}"
    return sentence
