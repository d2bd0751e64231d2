"""The plan whose report is shown: forty models of the sizes of Llama 3 for ten minutes of requests that nobody has sent.

Machines, their prices and speeds are round numbers of the kind that clouds have, not measurements.
"""

from collections.abc import Mapping

from schedules.capacity.clusters import NodeType
from schedules.capacity.plan import Plan
from schedules.capacity.playing import try_out
from schedules.capacity.question import Choices, PlanQuestion
from schedules.capacity.searching import Search
from schedules.facts import Model, Rate, Unit
from schedules.objectives import Objectives
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, formed
from schedules.simulation.scenario import Offered
from schedules.traces.lineup import Served
from schedules.traces.synthesis import Recipe, synthesise

GB, GIB = 10**9, 1 << 30
_FORMED_S = 2.0


def example() -> Plan:
    """Takes some minutes of one core."""
    question = _question()
    search = Search(question)
    while not search.done:
        for job in search.ask(1):
            search.tell(job, try_out(question, job))
    return search.plan()


def _question() -> PlanQuestion:
    sizes = {f"llama-3-8b-{task}-{i:02}": 8 for i in range(12) for task in ("chat", "code", "summaries")}
    sizes |= {f"llama-3-3b-router-{i}": 3 for i in range(4)}
    tasks = {"chat": "chat", "code": "code", "summaries": "summarisation", "router": "code"}
    lineup = tuple(Served(name, tasks[name.split("-")[3]]) for name in sizes)
    trace = synthesise(Recipe(lineup, 2.0, 600.0, cv=4.0, skew=0.9, max_prompt_tokens=4096, max_tokens=512), seed=1)
    offered = tuple(Offered(_model(name, sizes[name]), _wanted(name)) for name in trace.models)
    types = (
        NodeType("l40s", 1.86, 46 * GB, 64 * GIB, 450 * GB, _speeds(1.25 * GB, 1.5 * GB, 24 * GB, 800 * GB, 1.8e14)),
        NodeType("l4", 0.80, 23 * GB, 48 * GIB, 400 * GB, _speeds(1.25 * GB, 1.5 * GB, 12 * GB, 280 * GB, 6e13)),
    )
    choices = Choices(
        types, most_machines=32, store_bytes_per_s=12.5 * GB, dram_shares=(1.0, 0.5), ssd_shares=(1.0, 0.0)
    )
    return PlanQuestion(trace, offered, choices, attainment=0.99)


def _wanted(name: str) -> Objectives:
    ttft_s = 10.0 if "summaries" in name else 5.0
    return Objectives(ttft_s, 0.1, 0, 8, keep_alive_s=60.0, priority=0, max_degree=4, kv_tokens=8192)


def _model(name: str, billions: int) -> Model:
    layers, layer_bytes, ends_bytes = {8: (32, 436 * 10**6, 1050 * 10**6), 3: (28, 201 * 10**6, 788 * 10**6)}[billions]
    sizes = {"embed": ends_bytes, **{f"layer.{i:04}": layer_bytes for i in range(layers)}, "head": ends_bytes}
    units = tuple(Unit(unit, f"{name}/{unit}", size_bytes) for unit, size_bytes in sizes.items())
    return Model(name, f"{name}-digest", units, tied_embeddings=False, kv_bytes_per_token=layers * 4096)


def _speeds(
    nic_bytes_per_s: float, ssd_bytes_per_s: float, bus_bytes_per_s: float, decode: float, prefill: float
) -> Mapping[str, Rate]:
    speeds = {
        NIC: nic_bytes_per_s,
        SSD: ssd_bytes_per_s,
        BUS: bus_bytes_per_s,
        DECODE: decode,
        PREFILL: prefill,
        REACH: 0.02,
    }
    speeds |= {formed(degree): _FORMED_S + 0.1 * degree for degree in (1, 2, 4)}
    return {name: Rate(value, value, 9) for name, value in speeds.items()}
