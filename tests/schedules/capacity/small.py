"""Machines, models and questions that are small enough to be tried out in a test."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from schedules.capacity.clusters import NodeType
from schedules.capacity.plan import Plan
from schedules.capacity.playing import try_out
from schedules.capacity.question import Choices, PlanQuestion
from schedules.capacity.search import Job
from schedules.capacity.searching import Search
from schedules.capacity.trial import Trial, Usage
from schedules.objectives import Objectives
from schedules.simulation.scenario import Offered
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from tests.schedules.worlds import MB, world_model, world_node

HALF_USED = Usage(0.4, 0.5, 0.1, 0.2, None, None)
Served = Callable[[Job], float]
"""The share of requests that a job serves as wanted, for who plays nothing."""

WANTED = Objectives(1.5, None, 0, 1, keep_alive_s=20.0, priority=0, max_degree=1, kv_tokens=1024)


def machine(name: str = "small", price_per_h: float = 1.0, device_bytes: int = 130 * MB, **speeds: float) -> NodeType:
    """Room for two models of 60 MB, or for so many bytes; speeds as of worlds."""
    node = world_node(name, device_bytes, **speeds)
    return NodeType(name, price_per_h, device_bytes, node.dram_bytes, node.ssd_bytes, node.rates)


def asked(*types: NodeType, models: int = 6, objectives: Objectives = WANTED, **more: Any) -> PlanQuestion:
    """Which of the machines serve so many models, each called now and then for five minutes?"""
    recipe = Recipe(numbered(models, ["40:0.5/20:0.5"]), 0.4, 300.0, max_tokens=64)
    trace = more.pop("trace", None) or synthesise(recipe, seed=1)
    choices = Choices(types or (machine(),), most_machines=more.pop("most_machines", 6))
    choices = replace(choices, **{name: more.pop(name) for name in list(more) if hasattr(choices, name)})
    offered = tuple(Offered(world_model(name), objectives) for name in trace.models)
    return PlanQuestion(trace, offered, choices, **{"attainment": 0.95, **more})


def found(question: PlanQuestion, play: Callable[[PlanQuestion, Job], Trial] = try_out, **more: int) -> Plan:
    """The plan, its jobs done one after the other."""
    search = Search(question, **more)
    while not search.done:
        for job in search.ask(1):
            search.tell(job, play(question, job))
    return search.plan()


def played_as(served: Served, usage: Usage = HALF_USED) -> Callable[[PlanQuestion, Job], Trial]:
    """What would become of jobs if this were the share that they serve."""

    def play(question: PlanQuestion, job: Job) -> Trial:
        prices = {kind.name: kind.price_per_h for kind in question.choices.types}
        price = sum(prices[name] * count for name, count in job.cluster.machines.items())
        share, times = served(job), {"p50": 0.5, "p95": 1.0, "p99": 1.5}
        by_model = dict.fromkeys(question.trace.models, share)
        return Trial(
            job.name, job.cluster, price, share, by_model, times, times, times, 0.1, 0.0, 1.0, {"remote": 1}, usage, 100
        )

    return play


def by_power(power: Mapping[str, float], needed: float) -> Served:
    """The share that is served by machines of such power in all."""
    return lambda job: min(1.0, sum(power[name] * count for name, count in job.cluster.machines.items()) / needed)


def priced(**prices: float) -> tuple[NodeType, ...]:
    """Machines by name and price."""
    return tuple(machine(name, price) for name, price in prices.items())
