"""What would be on the chosen cluster if something were other than asked for."""

from collections.abc import Mapping
from dataclasses import replace

from schedules.capacity.answering.words import machines_in_words, percent, seconds
from schedules.capacity.plan import WhatIf
from schedules.capacity.search import Job
from schedules.capacity.trial import Trial

FEWER = "one machine fewer"
TRAFFIC, LOST, COLD = "twice the traffic", "a machine lost", "no prewarming"
NETWORK, DRAM = "twice the network", "half the dram"

_ABOUT = 0.9
"""Times that are closer are about the same."""

_WORDS: Mapping[str, str] = {
    FEWER: "With one machine fewer",
    TRAFFIC: "With twice the traffic",
    LOST: "If the machine that is used most were lost in the middle, and not replaced,",
    COLD: "If nothing were brought to nodes beforehand, nor kept there of models that do not run,",
    NETWORK: "With network cards, and a store, that are twice as fast",
    DRAM: "With half of the dram",
}


def what_if_jobs(chosen: Trial) -> dict[str, Job]:
    """By what would be. That one machine fewer is there has been tried already."""
    cluster, name = chosen.cluster, chosen.name
    half = {kind: size_bytes // 2 for kind, size_bytes in cluster.dram_budget_bytes.items()}
    jobs = {
        TRAFFIC: Job(f"{name}: {TRAFFIC}", cluster, demand=2.0),
        LOST: Job(f"{name}: {LOST}", cluster, lose=True),
        COLD: Job(f"{name}: {COLD}", cluster, cold=True),
        NETWORK: Job(f"{name}: {NETWORK}", replace(cluster, network=2 * cluster.network)),
        DRAM: Job(f"{name}: {DRAM}", replace(cluster, dram_budget_bytes=half)),
    }
    return jobs if any(half.values()) else {what: job for what, job in jobs.items() if what != DRAM}


def what_if(name: str, chosen: Trial, trial: Trial) -> WhatIf:
    """What the trial says."""
    return WhatIf(name, f"{_WORDS[name]} {_outcome(chosen, trial)}{_of_which(name, trial)}.", trial)


def _outcome(chosen: Trial, trial: Trial) -> str:
    would_be = "of the requests would be served as wanted"
    same = percent(trial.attained) == percent(chosen.attained)
    outcome = (
        f"{percent(trial.attained)} {would_be}, as it is now"
        if same
        else (f"{percent(trial.attained)} instead of {percent(chosen.attained)} {would_be}")
    )
    before_s, after_s = chosen.ttft_s.get("p95", 0.0), trial.ttft_s.get("p95", 0.0)
    if min(before_s, after_s) == 0.0 or _ABOUT < after_s / before_s < 1 / _ABOUT:
        return outcome
    return f"{outcome}; the first token would come within {seconds(after_s)} instead of {seconds(before_s)}, 95 times of 100"


def _of_which(name: str, trial: Trial) -> str:
    if name == LOST and trial.cluster.count == 1:
        return " (it is the only one)"
    return f" ({machines_in_words(trial.cluster)})" if name == FEWER else ""
