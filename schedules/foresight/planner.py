"""From what is expected to what is to be done about it: the one function that makes a plan of prewarming."""

from schedules.foresight.plan import Budgets, Plan
from schedules.foresight.planning.ground import Ground, Wanted
from schedules.foresight.planning.making import Making

__all__ = ["Ground", "Wanted", "make_plan"]


def make_plan(ground: Ground, budgets: Budgets, now_s: float, every_s: float) -> Plan:
    """The plan for the forecast's horizon, to be followed by another after `every_s`. The same ground gives the same plan.
    ValueError if that is no time at all."""
    if every_s <= 0.0:
        raise ValueError(f"plans cannot follow each other every {every_s} s")
    return Making(ground, budgets, now_s, every_s).plan()
