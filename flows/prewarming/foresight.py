"""How the platform looks ahead, unless somebody says otherwise: what settings say, as flows have it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from schedules.foresight.plan import Budgets
from schedules.objectives import Objectives

ALL = ""
"""In the place of a model's name: those that have no objectives of their own."""


@dataclass(frozen=True)
class Foresight:
    """A run of prewarming every `every_s`; its plan is for `horizon_s`, made by the method `forecaster` of `history_s` of the
    past, within `budgets`; `models` are brought to every node whatever is forecast. `objectives` by name of a model, those
    of ALL for all others."""

    every_s: float
    horizon_s: float
    history_s: float
    forecaster: str
    budgets: Budgets
    models: tuple[str, ...] = ()
    objectives: Mapping[str, Objectives] = field(default_factory=dict)

    def objectives_of(self, model: str) -> Objectives:
        """What is wanted of the model. KeyError if nobody said what is of models."""
        return self.objectives.get(model) or self.objectives[ALL]

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Self:
        """As `asdict` wrote it. TypeError, KeyError or ValueError if it did not."""
        objectives = {name: Objectives(**each) for name, each in told["objectives"].items()}
        budgets, models = Budgets(**told["budgets"]), tuple(told["models"])
        return cls(**{**told, "budgets": budgets, "models": models, "objectives": objectives})
