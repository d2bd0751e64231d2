"""A question as a person types it, made one that can be answered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from flows.errors import Unclear
from flows.planning.machines import is_of_cluster, types_of
from flows.planning.models import Published, Wanted, offered
from flows.planning.typed import number, parts, seconds, shares, size_bytes
from flows.trace_files import take
from schedules.capacity.catalog import store_of
from schedules.capacity.question import Choices, PlanQuestion
from schedules.facts import Node
from schedules.fitting.errors import BadWorld
from schedules.fitting.fitted import Fitted
from schedules.fitting.world_file import from_json
from schedules.systems.system import OURS, Startup
from schedules.traces.changing import denser, during
from schedules.traces.formats import Reading
from schedules.traces.lengths import task
from schedules.traces.lineup import numbered
from schedules.traces.parsing import Wanting
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import Trace

MOST_TOKENS = 1024
"""What clients ask for where that was not recorded."""
HISTORY = "history"
"""In the place of a trace: what the platform was asked of late."""
_PAST = "7d"


@dataclass(frozen=True)
class Wishes:
    """All that is asked, as typed; docs/capacity.md says what each is. Empty text leaves it out."""

    trace: str
    node_types: str
    keep_alive: str
    degree: int
    kv_tokens: int
    models: str = ""
    slo_ttft: str = ""
    slo_tpot: str = ""
    attainment: float = 0.99
    most_machines: int = 64
    rate: str = ""
    duration: str = ""
    price: str = ""
    store: str = ""
    dram: str = "1,0.5,0.25"
    ssd: str = "1,0.5,0.25"
    currency: str = "$"
    most_replicas: int = 1000
    seed: int = 0
    world: str = ""

    @property
    def of_cluster(self) -> bool:
        """Whether the nodes that run now are asked for, of which a fitted world knows more."""
        return is_of_cluster(self.node_types) and not self.world

    @property
    def past_s(self) -> float | None:
        """How much of the past is to be served again; None if that is not what is asked."""
        if self.trace != HISTORY:
            return None
        return seconds(self.duration or _PAST, "the duration")


@dataclass(frozen=True)
class Asked:
    """The question, and what whoever reads the answer should know of how it was made, in sentences."""

    question: PlanQuestion
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What the front end says, if the wishes are about that: the nodes that run, and what was asked of late."""

    nodes: Sequence[Node] = ()
    past: Trace | None = None


def question_of(wishes: Wishes, published: Published, known: Known) -> Asked:
    """The question.

    Unclear, BadQuestion, BadWorld, TraceError, NotATrace, StorageError or OSError say what is wrong.
    """
    trace = _changed(trace_of(wishes) if known.past is None else known.past, wishes)
    world = world_of(Path(wishes.world)) if wishes.world else Fitted(tuple(known.nodes))
    wanted = Wanted(
        wishes.slo_ttft, wishes.slo_tpot, wishes.keep_alive, wishes.degree, wishes.kv_tokens, wishes.most_replicas
    )
    models, note = offered(trace, wishes.models, published, wanted)
    choices = Choices(
        types=types_of(wishes.node_types, wishes.price, world.nodes),
        most_machines=wishes.most_machines,
        store_bytes_per_s=_store(wishes, world.nodes),
        dram_shares=shares(wishes.dram, "shares of dram"),
        ssd_shares=shares(wishes.ssd, "shares of ssd"),
        currency=wishes.currency,
    )
    system = replace(OURS, startup=_startup(world))
    question = PlanQuestion(trace, models, choices, wishes.attainment, system, world.habits, seed=wishes.seed)
    return Asked(question, tuple(filter(None, (note,))))


def world_of(path: Path) -> Fitted:
    """What `firsttoken fit` has written. BadWorld or OSError say what is wrong."""
    content = path.read_bytes()
    try:
        return from_json(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise BadWorld(f"{path} is no JSON: {error}") from error


def _startup(world: Fitted) -> Startup:
    """Ours, with the tail that nodes have in the median."""
    tails_s = [each.tail_s for each in world.startups.values()]
    return replace(OURS.startup, tail_s=median(tails_s)) if tails_s else OURS.startup


def trace_of(wishes: Wishes) -> Trace:
    """The trace of a file, whatever it was recorded by; without one a trace made up of rate and duration."""
    if wishes.trace:
        wanting = Wanting(Path(wishes.trace).name.split(".")[0] or "model", task("chat"), MOST_TOKENS, wishes.seed)
        return take(Path(wishes.trace), Reading(), wanting, lambda _done: None).trace
    if not (wishes.rate and wishes.duration and wishes.models):
        raise Unclear("nothing says what is to be served: name a trace, or rate, duration and models")
    lineup = numbered(len(parts(wishes.models, "models")))
    recipe = Recipe(lineup, number(wishes.rate, "the rate"), seconds(wishes.duration, "the duration"))
    return synthesise(recipe, wishes.seed, "made up")


def _changed(trace: Trace, wishes: Wishes) -> Trace:
    """Only so much of it, as dense as is wanted."""
    if not wishes.trace:
        return trace
    if wishes.duration:
        trace = during(trace, 0.0, seconds(wishes.duration, "the duration"))
    if wishes.rate:
        if not len(trace) or not trace.duration_s:
            raise Unclear("the rate: a trace without requests has none that could be changed")
        trace = denser(trace, number(wishes.rate, "the rate") * trace.duration_s / len(trace), wishes.seed)
    return trace


def _store(wishes: Wishes, cluster: Sequence[Node]) -> float | None:
    """What the store gives to all: as told, or as the cluster's nodes measured it."""
    if wishes.store:
        return size_bytes(wishes.store, "the store")
    return store_of(cluster)
