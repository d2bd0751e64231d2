"""How a system prewarms: who foresees, what may be used for it, and how often it is planned."""

from dataclasses import dataclass

from schedules.foresight.forecast import Forecaster
from schedules.foresight.past import MINUTE_S
from schedules.foresight.plan import Budgets


@dataclass(frozen=True)
class Prewarms:
    """A plan is made every `every_s`, for the `horizon_s` from then on, which are whole minutes."""

    forecaster: Forecaster
    budgets: Budgets
    every_s: float
    horizon_s: float

    def __post_init__(self) -> None:
        if self.every_s <= 0.0:
            raise ValueError(f"a plan cannot be made every {self.every_s} s")
        if self.horizon_s < MINUTE_S or self.horizon_s % MINUTE_S:
            raise ValueError(f"a horizon is whole minutes, not {self.horizon_s} s")
