"""From what is expected to what is to be done about it: the one function that makes a plan of prewarming."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schedules.facts import Model, ModelKey, View
from schedules.foresight.forecast import Forecast
from schedules.foresight.plan import Budgets, Plan
from schedules.objectives import Objectives


@dataclass(frozen=True)
class Wanted:
    """A model that may be planned for, and what is wanted of it."""

    model: Model
    objectives: Objectives


@dataclass(frozen=True)
class Ground:
    """What a plan is made on. The `view` has what nodes hold; `forecast.models` are names of `models`, those that it does not
    have are taken for never called. `running` are nodes of replicas that are up or coming, by model: one tuple a replica."""

    view: View
    models: Sequence[Wanted]
    forecast: Forecast
    running: Mapping[ModelKey, Sequence[tuple[str, ...]]] = field(default_factory=dict)


def make_plan(ground: Ground, budgets: Budgets, now_s: float, every_s: float) -> Plan:
    """The plan for the forecast's horizon, to be followed by another after `every_s`. The same ground gives the same plan."""
    raise NotImplementedError
