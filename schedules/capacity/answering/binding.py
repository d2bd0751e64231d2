"""What keeps a cheaper cluster from attaining the goal: each thing that it could be is doubled there, and what became of that
is compared."""

from collections.abc import Mapping

from schedules.capacity.answering.words import percent
from schedules.capacity.search import Job, Resource
from schedules.capacity.trial import Trial

GAIN = 0.001
"""What attains less than this more does not count."""
_TWICE: Mapping[Resource, str] = {
    Resource.DEVICE: "twice the accelerator memory",
    Resource.COMPUTE: "accelerators that compute twice as fast",
    Resource.CARDS: "network cards twice as fast",
    Resource.STORE: "a store that gives twice as much",
    Resource.DRAM: "twice the dram",
    Resource.SSD: "ssds twice as fast",
    Resource.STARTUP: "stages that start twice as fast",
}


def binding_jobs(trial: Trial) -> dict[Resource, Job]:
    """What could bind there, doubled one at a time."""
    could = [Resource.DEVICE, Resource.COMPUTE, Resource.CARDS, Resource.STARTUP]
    could += [Resource.STORE] if trial.cluster.store_bytes_per_s is not None else []
    could += [Resource.SSD] if trial.moved_bytes.get("ssd") else []
    could += [Resource.DRAM] if any(trial.cluster.dram_budget_bytes.values()) else []
    return {each: Job(f"{trial.name}: {_TWICE[each]}", trial.cluster, twice=each) for each in could}


def binding_sentence(trial: Trial, goal: float, doubled: Mapping[Resource, Trial]) -> str:
    """Of the trial that misses the goal, by what became of it with twice of something; "" if nothing was doubled."""
    ranked = sorted(doubled, key=lambda each: (-doubled[each].attained, list(Resource).index(each)))
    if not ranked:
        return ""
    first, now = ranked[0], percent(trial.attained)
    best = doubled[first].attained
    if best < trial.attained + GAIN:
        return f"No single thing: whichever is doubled, {trial.name} attains no more than {now}."
    would = f"with {_TWICE[first]} {trial.name} would attain {percent(best)} instead of {now}"
    if best < goal:
        return f"No single thing, {first} most of all: {would}, where {percent(goal)} are wanted."
    also = [each for each in ranked[1:] if doubled[each].attained >= goal]
    if also:
        others = " or with ".join(_TWICE[each] for each in also)
        return f"{_capital(first)}: {would}; it would be {percent(doubled[also[0]].attained)} at most with {others}."
    rest = f", and with anything else doubled {percent(doubled[ranked[1]].attained)} at most" if ranked[1:] else ""
    return f"{_capital(first)}: {would}{rest}."


def _capital(resource: Resource) -> str:
    return resource[0].upper() + resource[1:]
