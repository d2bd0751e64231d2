"""What a plan is asked for."""

from dataclasses import dataclass, field

from schedules.capacity.clusters import NodeType
from schedules.simulation.scenario import Offered
from schedules.systems.system import OURS, System
from schedules.traces.trace import Trace
from schedules.world.habits import Habits


@dataclass(frozen=True)
class Choices:
    """What may be had: machines of the `types`, up to `most_machines` in all. Of dram and ssd of a machine shares may be left
    out, to see what they are worth: 1 is all of it, 0 none."""

    types: tuple[NodeType, ...]
    most_machines: int
    store_bytes_per_s: float | None = None
    dram_shares: tuple[float, ...] = (1.0,)
    ssd_shares: tuple[float, ...] = (1.0,)
    currency: str = "$"


@dataclass(frozen=True)
class PlanQuestion:
    """The cheapest cluster on which the share `attainment` of the trace's requests is served within the service levels of
    their models; `models` are in the trace's order. A limit that a model does not have is not missed. Who has waited for a
    replica for `patience_s` is turned away."""

    trace: Trace
    models: tuple[Offered, ...]
    choices: Choices
    attainment: float = 0.99
    system: System = OURS
    habits: Habits = field(default_factory=Habits)
    patience_s: float = 600.0
    seed: int = 0
