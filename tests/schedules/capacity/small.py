"""Machines, models and questions that are small enough to be tried out in a test."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from schedules.capacity.clusters import NodeType
from schedules.capacity.plan import Plan
from schedules.capacity.playing import try_out
from schedules.capacity.question import Choices, PlanQuestion
from schedules.capacity.search import Job
from schedules.capacity.searching import Search
from schedules.capacity.trial import Trial
from schedules.objectives import Objectives
from schedules.simulation.scenario import Offered
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from tests.schedules.worlds import MB, world_model, world_node

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
