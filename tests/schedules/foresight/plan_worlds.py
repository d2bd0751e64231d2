"""Grounds of plans: nodes, models and forecasts, told one by one or drawn by a seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from schedules.facts import Model, ModelKey, Node, Rate, Unit, View
from schedules.foresight.forecast import Forecast
from schedules.foresight.plan import Budgets
from schedules.foresight.planner import Ground, Wanted
from schedules.rates import BUS, STORE, formed
from tests.schedules.models import node_of, rates_of
from tests.told import budgets_of, objectives_of

MB, GIB = 1_000_000, 1 << 30
MINUTES = 15
STAGING_ONLY = budgets_of(device_share=0.0)


def model(name: str, layers: int = 8, unit_mb: int = 10, **more: Any) -> Model:
    """Of units that no other model has."""
    names = ("embed", *(f"layer.{index:04d}" for index in range(layers)), "head")
    units = tuple(Unit(unit, f"{name}/{unit}", unit_mb * MB) for unit in names)
    return replace(Model(name, f"{name}-digest", units, False, 1000), **more)


def node(name: str, dram_mb: int = 500, units: Mapping[str, str] | None = None, **more: Any) -> Node:
    """A card of 10 MB/s, an ssd of 50, a bus of 1000; a group is formed in half a second, whatever its degree."""
    made = node_of(name, 2000 * MB, 0, dict(units or {}))
    rates = rates_of(nic=10.0 * MB, ssd=50.0 * MB, decode=1e10, prefill=1e12, reach=0.01, formed=0.5)
    rates |= {BUS: Rate(1000.0 * MB, 1000.0 * MB, 9)} | {formed(degree): Rate(0.5, 0.5, 9) for degree in (2, 4)}
    made = replace(made, dram_bytes=dram_mb * MB, ssd_bytes=4 * dram_mb * MB, peer_port=1, rates=rates)
    return replace(made, **more)


def holding(node: Node, model: Model, tier: str) -> Node:
    """The node with all of the model in that tier, on ssd as well."""
    size_bytes = model.size_bytes
    return replace(
        node,
        units={**node.units, **dict.fromkeys(model.digests, tier)},
        dram_used_bytes=node.dram_used_bytes + (size_bytes if tier == "dram" else 0),
        ssd_used_bytes=node.ssd_used_bytes + size_bytes,
    )


def wanted(model: Model, **objectives: Any) -> Wanted:
    """With a keep-alive of five minutes."""
    return Wanted(model, objectives_of(**{"keep_alive_s": 300.0, "kv_tokens": 1000, "max_degree": 1, **objectives}))


def forecast(calls: Mapping[str, Sequence[float] | float], at_s: float = 0.0) -> Forecast:
    """By model the requests expected of each minute, by chance; one number is of all minutes together."""
    expected = np.zeros((len(calls), MINUTES))
    for row, said in enumerate(calls.values()):
        if isinstance(said, int | float):
            expected[row] = said / MINUTES
        else:
            expected[row, : len(said)] = said
    by_then = 1.0 - np.exp(-np.cumsum(expected, axis=1))
    total = expected.sum(axis=1)
    return Forecast(tuple(calls), at_s, expected, by_then, 0.0 * total, 2.0 * total)


def certain(calls: Mapping[str, int | None]) -> Forecast:
    """One request of each model in that minute for certain, or none ever."""
    expected = np.zeros((len(calls), MINUTES))
    for row, minute in enumerate(calls.values()):
        if minute is not None:
            expected[row, minute] = 1.0
    total = expected.sum(axis=1)
    return Forecast(tuple(calls), 0.0, expected, np.cumsum(expected, axis=1), total, total)


def ground(
    nodes: Sequence[Node],
    models: Sequence[Wanted],
    said: Forecast,
    running: Mapping[ModelKey, Sequence[tuple[str, ...]]] | None = None,
) -> Ground:
    """All that a plan is made on."""
    return Ground(View(tuple(nodes)), models, said, running or {})


def drawn(seed: int) -> tuple[Ground, Budgets]:
    """Up to twelve models over up to five nodes that hold some of their units and are short of room, with any budgets."""
    chance = random.Random(seed)
    models = [_any_model(chance, index) for index in range(chance.randint(1, 12))]
    base = models[0]
    models.append(
        replace(base, name="tuned", digest="tuned", units=(*base.units[:-1], Unit("head", "tuned/head", 9 * MB)))
    )
    nodes = [_any_node(chance, f"node{index}", models) for index in range(chance.randint(1, 5))]
    offered = [
        wanted(
            each,
            max_degree=chance.randint(1, 4),
            priority=chance.randint(0, 2),
            keep_alive_s=chance.choice([0.0, 90.0, 600.0]),
        )
        for each in models
    ]
    said = forecast({each.name: chance.choice([0.0, 0.05, 0.5, 2.0, 20.0]) for each in models})
    running = {
        each.key: [tuple(chance.sample([node.name for node in nodes], 1))] for each in models if chance.random() < 0.2
    }
    budgets = budgets_of(
        dram_share=chance.choice([0.0, 0.5, 0.9, 1.0]),
        ssd_share=chance.choice([0.0, 0.5, 0.9]),
        device_share=chance.choice([0.0, 0.3, 1.0]),
        link_share=chance.choice([0.1, 0.5, 1.0]),
        moved_bytes=chance.choice([None, None, 50 * MB]),
        least_saved_s=chance.choice([0.0, 0.0, 1.0]),
        least_saved_device_s=chance.choice([0.0, 10.0]),
    )
    return ground(nodes, offered, said, running), budgets


def _any_model(chance: random.Random, index: int) -> Model:
    tied, rows = chance.random() < 0.3, chance.random() < 0.5
    layers, unit_mb = chance.randint(1, 12), chance.randint(1, 20)
    return model(f"m{index}", layers, unit_mb, tied_embeddings=tied, rows_first=rows)


def _any_node(chance: random.Random, name: str, models: Sequence[Model]) -> Node:
    units = {
        unit.digest: chance.choice(["dram", "ssd", "ssd"])
        for each in models
        for unit in each.units
        if chance.random() < 0.25
    }
    sizes = {unit.digest: unit.size_bytes for each in models for unit in each.units}
    in_dram = sum(sizes[digest] for digest, tier in units.items() if tier == "dram")
    made = node(
        name, chance.choice([50, 150, 400]), units, dram_used_bytes=in_dram, ssd_used_bytes=sum(map(sizes.get, units))
    )
    slow = {"nic": Rate(made.rates["nic"].mean * chance.choice([0.5, 1.0, 3.0]), 1.0, 9)}
    store = {STORE: Rate(15.0 * MB, 1.0, 9)} if chance.random() < 0.3 else {}
    draining, port = chance.random() < 0.1, chance.randint(0, 1)
    return replace(made, rates={**made.rates, **slow, **store}, draining=draining, peer_port=port)
