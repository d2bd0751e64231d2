"""What a plan is made on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schedules.facts import Model, ModelKey, View
from schedules.foresight.forecast import Forecast
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
