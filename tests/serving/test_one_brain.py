"""The live router and the simulator run one brain: the same arrivals and misfortunes are followed by the same decisions."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.fake import FakeCluster
from cluster.fake_group import answer
from cluster.virtual_time import run_virtual
from cluster.wire.requests import Submit
from schedules.actions import Action, Assign, Hold, MoveAt, Record, Refuse, Replay, Shift, Start, Stop
from schedules.brain import Brain
from schedules.events import (
    ConsolidationWanted,
    Event,
    GroupLost,
    MigrationWanted,
    ModelKnown,
    MoveGoOn,
    NodeDrained,
    NodeUndrained,
    RequestBroke,
    RequestShifted,
)
from schedules.facts import Node
from schedules.limits import Limits
from schedules.placing.policies import POLICIES
from schedules.simulation.simulate import Arrival, Input, Told, Trouble, Wish, simulate
from schedules.world.habits import Habits, Misfortune
from schedules.world.world import World
from serving.catalog import ServedModel
from serving.cold_start import Ledger
from serving.errors import RequestError
from serving.metrics import Metrics
from serving.router import Router, RouterLimits
from tests.cluster.unpublished import VOCABULARY, described, facts
from tests.schedules.worlds import MB, world_node
from tests.told import objectives_of

OBJECTIVES = objectives_of(ttft_s=5.0, max_replicas=3, keep_alive_s=60.0, max_degree=4, kv_tokens=2048)
BOUNDS = Limits(60.0, 500, 200, consolidate=True)
HABITS = Habits(tokens_at_once=16, carry_after_s=0.0)
PREFIX = "gone-brain-"


@dataclass(frozen=True)
class Case:
    """What comes, what befalls, and on which nodes."""

    models: tuple[ServedModel, ...]
    nodes: tuple[Node, ...]
    arrivals: tuple[Arrival, ...]
    troubles: tuple[Trouble, ...]
    wishes: tuple[Wish, ...] = ()


def _served(number: int) -> ServedModel:
    checkpoint = described(f"model-{number:02d}", layers=4 + number % 5, unit_bytes=(8 + number % 7) << 20)
    return ServedModel(checkpoint, facts(checkpoint), None, 2048, (), number + 1)


def _case(seed: int, requests: int, models: int, nodes: int, lasts_s: float, tokens: int = 60) -> Case:
    """A few models are asked for much, most of them rarely."""
    random = Random(seed)
    served = tuple(_served(number) for number in range(models))
    weights = list(accumulate(1.0 / (rank + 1) for rank in range(models)))
    times = sorted(round(random.uniform(2.0, lasts_s), 6) for _ in range(requests))
    arrivals = tuple(
        Arrival(
            at_s, f"r{index}", random.choices(served, cum_weights=weights)[0].facts.key,
            random.randint(1, 400), random.randint(1, tokens), deadline_s=at_s + 300.0,
        )
        for index, at_s in enumerate(times)
    )  # fmt: skip
    machines = tuple(world_node(f"node-{number}", 600 * MB) for number in range(nodes))
    return Case(served, machines, arrivals, _troubles(random, machines, lasts_s))


def _troubles(random: Random, nodes: Sequence[Node], lasts_s: float) -> tuple[Trouble, ...]:
    """Nodes go and come back, or are silent for a while; processes die; starts are refused; the scheduler is away."""

    def at_s() -> float:
        return round(random.uniform(10.0, lasts_s - 60.0), 6) + 5e-7

    found: list[Trouble] = []
    for kind, count in ((Misfortune.NODE_LOST, 6), (Misfortune.NODE_SILENT, 6)):
        for _ in range(count):
            node, begun_s = random.choice(nodes).name, at_s()
            found += [
                Trouble(begun_s, kind, node),
                Trouble(begun_s + random.uniform(1.0, 50.0), Misfortune.NODE_BACK, node),
            ]
    found += [Trouble(at_s(), Misfortune.GROUP_LOST) for _ in range(12)]
    found += [Trouble(at_s(), Misfortune.START_REFUSED) for _ in range(6)]
    found += [Trouble(100.0, Misfortune.SCHEDULER_LOST), Trouble(130.0, Misfortune.SCHEDULER_BACK)]
    return tuple(found)


def _with_wishes(case: Case, seed: int, lasts_s: float) -> Case:
    """Operators have models and requests moved, and nodes drained; some nodes end by themselves."""
    random, wishes, troubles = Random(seed), list[Wish](), list[Trouble]()
    names = [model.name for model in case.models]

    def at_s() -> float:
        return round(random.uniform(10.0, lasts_s - 60.0), 6) + 3e-7

    for number in range(150):
        node, model, request = (random.choice(each) for each in (case.nodes, names, case.arrivals))
        wish, then_s = f"w{number}", at_s()
        wishes += [
            Wish(then_s, ConsolidationWanted(f"{wish}c", model)),
            Wish(then_s + 1.0, MigrationWanted(f"{wish}m", node.name, model=random.choice(names))),
            Wish(request.at_s + 1.0 + number * 1e-6, MigrationWanted(f"{wish}r", node.name, request=request.request)),
        ]
    for number, node in enumerate(random.choices(case.nodes, k=6)):
        then_s = at_s()
        wishes += [Wish(then_s, NodeDrained(node.name, f"d{number}")), Wish(then_s + 31.7, NodeUndrained(node.name))]
    for node in random.choices(case.nodes, k=4):
        then_s = at_s()
        troubles += [
            Trouble(then_s, Misfortune.NODE_DRAINING, node.name),
            Trouble(then_s + 50.0, Misfortune.NODE_BACK, node.name),
        ]
    return replace(case, troubles=(*case.troubles, *troubles), wishes=tuple(wishes))


def _simulated(case: Case) -> list[Told]:
    known, inputs = set[str](), list[Input]()
    models = {model.facts.key: model for model in case.models}
    for arrival in case.arrivals:
        model = models[arrival.key]
        if model.name not in known:
            known.add(model.name)
            inputs.append(Wish(arrival.at_s, ModelKnown(model.facts, OBJECTIVES, model.opened)))
        inputs.append(arrival)
    world = World(case.nodes, [model.facts for model in case.models], HABITS)
    return simulate(Brain(POLICIES["planned"], BOUNDS, PREFIX, 0.0), world, [*inputs, *case.troubles, *case.wishes])


class _Live:
    """A router over a cluster in memory; what its brain was told, and how many requests were answered in full."""

    def __init__(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[Told] = []
        self.answered = 0
        self._case, self._models = case, {model.facts.key: model for model in case.models}
        told = self.told

        class Heard(Brain):
            """Its owner gives it a name of its own, and keeps no record."""

            def __init__(self, policy: Any, limits: Limits, _prefix: str, now_s: float) -> None:
                super().__init__(policy, limits, PREFIX, now_s)

            def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
                actions = super().handle(event, now_s)
                told.append(Told(now_s, event, actions))
                return actions

        monkeypatch.setattr("serving.router.Brain", Heard)
        monkeypatch.setattr("cluster.wire.phases.time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: 0.0))
        bounds = (BOUNDS.start_timeout_s, BOUNDS.max_held_requests, BOUNDS.max_held_per_model)
        self._router = Router(
            lambda: self._cluster,
            RouterLimits("planned", OBJECTIVES, *bounds, {}, consolidate=True),
            Metrics(),
            Ledger(),
        )
        self._cluster = FakeCluster(case.nodes, HABITS, self._router.hear)

    async def run(self) -> None:
        """Until every request is over."""
        loop = asyncio.get_running_loop()
        async with self._cluster, asyncio.TaskGroup() as readers:
            for trouble in self._case.troubles:
                loop.call_at(trouble.at_s, self._cluster.befall, trouble.what, trouble.name)
            for wish in self._case.wishes:
                loop.call_at(wish.at_s, self._router.tell, wish.event)
            for arrival in self._case.arrivals:
                loop.call_at(arrival.at_s, self._arrive, arrival, readers)
            await asyncio.sleep(
                max(each.at_s for each in (*self._case.arrivals, *self._case.troubles, *self._case.wishes)) + 1.0
            )
        await self._router.close()

    def _arrive(self, arrival: Arrival, readers: asyncio.TaskGroup) -> None:
        prompt = tuple(Random(arrival.request).choices(range(VOCABULARY), k=arrival.prompt_tokens))
        submit = Submit(arrival.request, prompt, len(prompt), arrival.max_tokens, ())
        try:
            tickets = self._router.admit(self._models[arrival.key], [submit], arrival.at_s, arrival.deadline_s)
        except RequestError:
            return
        readers.create_task(self._read(tickets[0], arrival.key.name, submit))

    async def _read(self, ticket: Any, model: str, submit: Submit) -> None:
        try:
            given = [token async for each in ticket.tokens() for token in each.tokens]
        except RequestError:
            return
        assert tuple(given) == answer(model, submit.tokens, submit.max_tokens, VOCABULARY)
        self.answered += 1


def _matters(told: Sequence[Told]) -> list[Told]:
    """All but echoes of a loss that the brain has heard of already, which are followed by nothing."""
    return [each for each in told if each.actions or not isinstance(each.event, GroupLost | RequestBroke)]


def _decided_alike(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """Of every event: what it was, when it came, and what followed."""
    simulated = _matters(_simulated(case))
    live = _Live(case, monkeypatch)
    run_virtual(live.run())
    heard = _matters(live.told)
    for index, (ours, theirs) in enumerate(zip(simulated, heard, strict=False)):
        assert ours == theirs, f"they part at event {index} of {len(simulated)}"
    assert len(heard) >= len(simulated)
    assert live.answered == len(case.arrivals)
    return simulated


def test_requests_that_go_on_elsewhere_are_decided_alike_live_and_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As operators wish, or because nodes end, and amid the same misfortunes."""
    case = _case(seed=5, requests=1000, models=12, nodes=8, lasts_s=400.0, tokens=1600)
    simulated = _decided_alike(_with_wishes(case, 7, 400.0), monkeypatch)
    assert {type(action) for told in simulated for action in told.actions} >= {MoveAt, Refuse, Shift}
    assert {type(told.event) for told in simulated} >= {RequestShifted, MoveGoOn}


def test_ten_thousand_requests_are_decided_alike_live_and_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case(seed=11, requests=10_000, models=50, nodes=10, lasts_s=1200.0)
    simulated = _decided_alike(case, monkeypatch)
    assert {type(action) for told in simulated for action in told.actions} >= {
        Assign,
        Hold,
        Replay,
        Start,
        Stop,
        Record,
    }
