"""A fitted world as JSON: what `firsttoken fit` writes and whoever plans reads."""

import dataclasses
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeVar

from schedules.facts import Node, Rate
from schedules.fitting.errors import BadWorld
from schedules.fitting.fitted import Fitted, Played, Quality, Quantity, Whence
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, STORE, STREAM, formed_degree
from schedules.simulation.comparing import Comparison, Matched
from schedules.systems.system import OURS, Startup
from schedules.world.habits import Habits

KIND, VERSION = "firsttoken world", 1
MOST_NODES = 100_000
_NAMES = {NIC, SSD, BUS, DECODE, PREFILL, STREAM, REACH, STORE}
_NEEDED = {NIC, SSD, DECODE, PREFILL}
_SIZES = ("device_bytes", "context_bytes", "dram_bytes", "ssd_bytes")
_T = TypeVar("_T")


def to_json(world: Fitted) -> dict[str, Any]:
    """All of it, but for where its nodes were and what they held."""
    return {
        "kind": KIND,
        "version": VERSION,
        "source": world.source,
        "nodes": [_node_json(node, world.startups.get(node.name, OURS.startup)) for node in world.nodes],
        "habits": dataclasses.asdict(world.habits),
        "quantities": [dataclasses.asdict(quantity) for quantity in world.quantities],
        "quality": None if world.quality is None else dataclasses.asdict(world.quality),
    }


def from_json(told: object) -> Fitted:
    """The world of such an object. BadWorld says what is wrong with it."""
    if not isinstance(told, Mapping) or told.get("kind") != KIND:
        raise BadWorld("this is no world of ours: `firsttoken fit --out` writes one")
    if told.get("version") != VERSION:
        raise BadWorld(f"the world is of version {told.get('version')}: this program reads version {VERSION}")
    try:
        return _fitted(told)
    except BadWorld:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadWorld(f"the world is damaged: {type(error).__name__}: {error}") from error


def _node_json(node: Node, startup: Startup) -> dict[str, Any]:
    return {
        "name": node.name,
        "machine": node.machine,
        "gpu": node.gpu,
        **{size: getattr(node, size) for size in _SIZES},
        "gives_to_peers": bool(node.peer_port),
        "rates": {name: dataclasses.asdict(rate) for name, rate in sorted(node.rates.items())},
        "startup": dataclasses.asdict(startup),
    }


_MAY_BE_NONE = ("carry_after_s", "cores")
"""Of habits."""


def _fitted(told: Mapping[str, Any]) -> Fitted:
    nodes = tuple(_node(each) for each in _some(told["nodes"]))
    names = [node.name for node in nodes]
    if len(set(names)) < len(names):
        raise BadWorld("two nodes of the world have the same name")
    startups = {each["name"]: _startup(each["startup"]) for each in told["nodes"]}
    quantities = tuple(_quantity(each) for each in told["quantities"])
    quality = None if told["quality"] is None else _quality(told["quality"])
    return Fitted(nodes, _habits(told["habits"]), startups, quantities, quality, str(told["source"]))


def _some(nodes: list[Any]) -> list[Any]:
    if not 1 <= len(nodes) <= MOST_NODES:
        raise BadWorld(f"a world has from 1 to {MOST_NODES:,} nodes, not {len(nodes):,}")
    return nodes


def _node(told: Mapping[str, Any]) -> Node:
    name = str(told["name"])
    sizes: dict[str, Any] = {size: _whole(told[size], f"{size} of node {name}") for size in _SIZES}
    rates = {str(rate): _rate(told["rates"][rate], f"{rate} of node {name}") for rate in told["rates"]}
    unknown = [rate for rate in rates if rate not in _NAMES and formed_degree(rate) is None]
    if unknown:
        raise BadWorld(f"nobody knows what {unknown[0]!r} of node {name} is")
    missing = sorted(_NEEDED - rates.keys()) or ([] if any(formed_degree(r) for r in rates) else ["formed.1"])
    if missing:
        raise BadWorld(f"node {name} does not say how fast it is: {missing[0]} is missing")
    return Node(
        name=name, address="", host="", rendezvous_port=0, dram_used_bytes=0, ssd_used_bytes=0, device_reserved_bytes=0,
        idle_stage_processes=1, busy_stage_processes=0, peer_port=1 if told["gives_to_peers"] else 0, rates=rates,
        machine=str(told["machine"]), gpu=str(told["gpu"]), **sizes,
    )  # fmt: skip


def _rate(told: Mapping[str, Any], what: str) -> Rate:
    mean, bad = (_number(told[end], what) for end in ("mean", "bad"))
    if mean <= 0.0 or bad <= 0.0:
        raise BadWorld(f"{what} is not above zero")
    return Rate(mean, bad, _whole(told["samples"], what))


def _startup(told: Mapping[str, Any]) -> Startup:
    tail_s = _number(told["tail_s"], "tail_s")
    if tail_s < 0.0:
        raise BadWorld("a tail_s is below zero")
    return Startup(**{**told, "tail_s": tail_s})


def _habits(told: Mapping[str, Any]) -> Habits:
    known = {field.name for field in dataclasses.fields(Habits)}
    unknown = sorted(told.keys() - known)
    if unknown:
        raise BadWorld(f"the world's habits have no {unknown[0]!r}")
    found = {
        name: None if value is None and name in _MAY_BE_NONE else _number(value, name) for name, value in told.items()
    }
    if any(value is not None and value < 0.0 for value in found.values()):
        raise BadWorld("one of the world's habits is below zero")
    at_once = _whole(told.get("tokens_at_once", 1), "tokens_at_once")
    return Habits(**(found | {"tokens_at_once": max(1, at_once)}))  # type: ignore[arg-type]


def _quantity(told: Mapping[str, Any]) -> Quantity:
    return Quantity(**{**told, "whence": Whence(told["whence"])})


def _quality(told: Mapping[str, Any]) -> Quality:
    return Quality(**{**told, "reported": _played(told["reported"]), "fitted": _played(told["fitted"])})


def _played(told: Mapping[str, Any]) -> Played:
    def made(kind: Callable[..., _T], of: Mapping[str, Any] | None) -> _T | None:
        return None if of is None else kind(**of)

    cold, every = made(Comparison, told["cold"]), made(Comparison, told["all"])
    return Played(cold, made(Matched, told["starts"]), every, told["starts_seen"], told["starts_played"])


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BadWorld(f"{what} is no number: {str(value)[:40]!r}")
    return float(value)


def _whole(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadWorld(f"{what} is no whole number from 0 on: {str(value)[:40]!r}")
    return value
