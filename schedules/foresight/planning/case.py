"""A model that is planned for, and what comes of it on the way to the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schedules.foresight.planning.demand import Demand
from schedules.foresight.planning.ground import Wanted
from schedules.foresight.planning.layouts import Layout


@dataclass
class Case:
    """A model that is planned for, and where its units are `held` (see Held.by_place). `worth` is what each byte that it
    needs in dram saves, sooner starts counting more, and `ssd_worth` the same of ssd; both in seconds."""

    index: int
    wanted: Wanted
    demand: Demand
    layout: Layout
    held: Mapping[int, Sequence[str]]
    running: Sequence[tuple[str, ...]]
    was_up: bool
    worth: float = 0.0
    ssd_worth: float = 0.0
    saved_s: float = 0.0
    reason: str = ""
