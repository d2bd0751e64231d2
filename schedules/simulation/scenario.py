"""All that is played: given once, the same is played each time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.facts import Model, Node, Rate
from schedules.learning import Lesson
from schedules.objectives import Objectives
from schedules.simulation.simulate import Trouble
from schedules.systems.system import OURS, Startup, System
from schedules.traces.trace import Trace
from schedules.world.habits import Habits


@dataclass(frozen=True)
class Offered:
    """A model, and what is wanted of it."""

    model: Model
    objectives: Objectives


@dataclass(frozen=True)
class Scenario:
    """`models` are those of the trace, in its order; `troubles` count their seconds from its begin. `startups` are of nodes
    whose stages come up in another way than the system has it, `truly` the rates of those that are not as fast as they say.
    No request is held for a replica longer than `patience_s`. `lessons` are of earlier starts, oldest first, which the brain
    remembers."""

    nodes: tuple[Node, ...]
    models: tuple[Offered, ...]
    trace: Trace
    system: System = OURS
    habits: Habits = field(default_factory=Habits)
    startups: Mapping[str, Startup] = field(default_factory=dict)
    truly: Mapping[str, Mapping[str, Rate]] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    starts_within_s: float = 600.0
    patience_s: float = float("inf")
    seed: int = 0
    lessons: tuple[Lesson, ...] = ()
