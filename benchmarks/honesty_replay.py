"""A log, replayed: what the simulator makes of the same cluster, requests and misfortunes."""

import numpy as np

from benchmarks.honesty_log import Log
from schedules.fitting.fit import fit_all
from schedules.fitting.fitted import Fitted
from schedules.fitting.replaying import Ground
from schedules.simulation.outcomes import Outcomes
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.simulation.simulate import Trouble
from schedules.traces.trace import Provenance, Trace, in_order
from schedules.world.habits import Habits, Misfortune


def as_reported(log: Log) -> Fitted:
    """The world by what the nodes said of themselves at the begin."""
    return Fitted(log.nodes, _habits(log))


def as_learned(log: Log) -> Fitted:
    """The world that is fitted to what came before the trace, as `firsttoken fit` does it to a history."""
    offered = {each.model.name: each for each in _offered(log)}
    return fit_all(log.before, Ground(log.nodes, offered, habits=_habits(log)))


def replay(log: Log, world: Fitted) -> Outcomes:
    """All of it, played in that world; requests are in the order of the log."""
    troubles = tuple(Trouble(at_s, Misfortune(what), name) for at_s, what, name in log.troubles)
    scenario = Scenario(
        log.nodes, _offered(log), _trace(log), habits=world.habits, startups=world.startups,
        truly={node.name: node.rates for node in world.nodes}, troubles=troubles, lessons=log.lessons,
    )  # fmt: skip
    return play(scenario)


def _habits(log: Log) -> Habits:
    """All nodes of a lab compute on one machine."""
    return Habits(cores=float(log.machine["cores"]))


def _offered(log: Log) -> tuple[Offered, ...]:
    return tuple(Offered(model, wanted) for model, wanted in zip(log.models, log.objectives, strict=True))


def _trace(log: Log) -> Trace:
    """The requests when they were sent."""
    names = ("model", "prompt_tokens", "answer_tokens", "answer_tokens")
    numbers = [log.column(name).astype(np.int32) for name in names]
    models, at_s = [model.name for model in log.models], log.column("at_s")
    return in_order(at_s, numbers, models, float(log.run["seconds"]) + 1.0, Provenance("a live run"))
