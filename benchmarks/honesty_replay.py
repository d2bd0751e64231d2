"""A log, replayed: what the simulator makes of the same cluster, requests and misfortunes."""

import numpy as np

from benchmarks.honesty_log import Log
from schedules.simulation.habits import Habits, Misfortune
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.simulation.simulate import Trouble
from schedules.traces.trace import Provenance, Trace, in_order


def scenario(log: Log, habits: Habits) -> Scenario:
    """What was live, as it stood at the log's begin."""
    models = tuple(Offered(model, wanted) for model, wanted in zip(log.models, log.objectives, strict=True))
    troubles = tuple(Trouble(at_s, Misfortune(what), name) for at_s, what, name in log.troubles)
    return Scenario(log.nodes, models, trace_of(log), habits=habits, troubles=troubles, lessons=log.lessons)


def trace_of(log: Log) -> Trace:
    """The requests when they were sent."""
    numbers = [
        log.column(name).astype(np.int32) for name in ("model", "prompt_tokens", "answer_tokens", "answer_tokens")
    ]
    names = [model.name for model in log.models]
    at_s = log.column("at_s")
    return in_order(at_s, numbers, names, float(np.max(at_s)), Provenance("a live run"))


def replay(log: Log, habits: Habits) -> Outcomes:
    """Played once; the outcomes are in the order of the log's requests by time."""
    return play(scenario(log, habits))
