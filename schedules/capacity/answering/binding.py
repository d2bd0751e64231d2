"""What keeps a cheaper cluster from attaining the goal: each thing that it could be is doubled there, and what became of that
is compared."""

from collections.abc import Mapping

from schedules.capacity.answering.words import percent
from schedules.capacity.search import Job, Resource
from schedules.capacity.trial import Trial

GAIN = 0.001
"""What attains less than this more does not count."""


def binding_jobs(trial: Trial) -> dict[Resource, Job]:
    """What could bind there, doubled one at a time."""
    could = [Resource.DEVICE, Resource.COMPUTE, Resource.CARDS, Resource.STARTUP]
    could += [Resource.STORE] if trial.cluster.store_bytes_per_s is not None else []
    could += [Resource.SSD] if trial.moved_bytes.get("ssd") else []
    could += [Resource.DRAM] if any(trial.cluster.dram_bytes.values()) else []
    return {each: Job(f"{trial.name}: twice {each}", trial.cluster, twice=each) for each in could}


def binding_sentence(trial: Trial, goal: float, doubled: Mapping[Resource, Trial]) -> str:
    """Of the trial that misses the goal, by what became of it with twice of something."""
    ranked = sorted(doubled, key=lambda each: (-doubled[each].attained, list(Resource).index(each)))
    where, now = f"on {trial.name}", percent(trial.attained)
    if not ranked or doubled[ranked[0]].attained < trial.attained + GAIN:
        return (
            f"No single thing: with twice of {_listed(ranked)} {trial.name} attains no more than {now}."
            if ranked
            else ""
        )
    first, rest = ranked[0], ranked[1:]
    best = percent(doubled[first].attained)
    if doubled[first].attained < goal:
        return (
            f"No single thing: {where} twice of {first} would help the most, to {best} instead of {now}, "
            f"and {percent(goal)} are wanted."
        )
    also = [each for each in rest if doubled[each].attained >= goal]
    sentence = f"{_capital(first)}: twice of it {where} would attain {best} instead of {now}"
    if also:
        return f"{sentence}; so would {_listed(also)} do, to {percent(doubled[also[0]].attained)} or less."
    if rest:
        return f"{sentence}, and twice of anything else no more than {percent(doubled[rest[0]].attained)}."
    return f"{sentence}."


def _listed(resources: list[Resource]) -> str:
    *most, last = [str(each) for each in resources]
    return f"{', '.join(most)} or {last}" if most else last


def _capital(resource: Resource) -> str:
    return resource[0].upper() + resource[1:]
