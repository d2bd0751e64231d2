"""What one way to run a cluster is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from schedules.placing.decision import Policy
from schedules.placing.policies.planned import Planned
from schedules.systems.prewarms import Prewarms


@dataclass(frozen=True)
class Startup:
    """How a stage comes up, beyond the rates of its node. It can compute `tail_s` after it is formed and has the units that
    it waits for on its accelerator. If it is `serial` nothing is fetched before it is formed, otherwise both go on at once.
    Units go over the bus as they come; unless it `streams`, once all are there. If it is `sliced` a stage that has reserved
    less than the largest of its group has as much less of the compute. One that goes on `by_layer` computes each layer of
    its first step as soon as that is there, and what comes last then takes the tail."""

    serial: bool = False
    tail_s: float = 0.0
    streams: bool = True
    sliced: bool = False
    by_layer: bool = False


@dataclass(frozen=True)
class Keeps:
    """Whether nodes keep units that nobody uses, as far as their budgets go: in dram, on ssd. Not `of_pipelines` if they keep
    only what came for a start of one stage."""

    dram: bool = True
    ssd: bool = True
    of_pipelines: bool = True


@dataclass(frozen=True)
class System:
    """The brain, with a `policy` made from a seed (whoever draws no lots leaves it), and what else makes a system what it is.
    Without a `keep_alive_s` each model has its own; without `peers` no node gives units to others. `moves_others` is as in
    the brain's limits.

    If pipelines become whole `in_place`, they do so as soon as they have answered, where one of their stages has reserved
    enough for that; its process stays what it is, and fetches what it lacks.

    With `prewarms` models come up the tiers before they are asked for; without, nothing does.

    As a value it can be sent to other processes: a `policy` is a function or class of a module.
    """

    name: str
    policy: Callable[[int], Policy]
    consolidate: bool
    keeps: Keeps = field(default_factory=Keeps)
    startup: Startup = field(default_factory=Startup)
    keep_alive_s: float | None = None
    peers: bool = True
    in_place: bool = False
    moves_others: bool = False
    prewarms: Prewarms | None = None


def _planned(_seed: int) -> Planned:
    return Planned()


OURS = System("firsttoken", _planned, consolidate=True, startup=Startup(by_layer=True))
STAYING = System("firsttoken-no-moves", _planned, consolidate=False)
"""Ours, but for what has started staying where it is, as it is."""
