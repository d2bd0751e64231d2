"""Which machines may be had, as a person types it: by name, as the nodes that run, or in a file."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.errors import Unclear
from flows.planning.typed import number, parts, size_bytes
from schedules.capacity.catalog import named, of_cluster
from schedules.capacity.clusters import NodeType
from schedules.facts import Node, Rate

CLUSTER = "cluster"
"""What the nodes of the running cluster are called."""
_SIZES = ("device_bytes", "dram_bytes", "ssd_bytes", "context_bytes")
_KEYS = {"price_per_h", "like", "nodes", "rates", *_SIZES}
_LARGEST_FILE = 1 << 20
_EXAMPLE = "h100=4.10,a10=1.20"


def is_of_cluster(told: str) -> bool:
    """Whether the nodes of a running cluster are asked for."""
    return any(_is_own(part.partition("=")[0].strip()) for part in parts(told, "node types"))


def types_of(told: str, price: str, cluster: Sequence[Node]) -> tuple[NodeType, ...]:
    """`told` is NAME=PRICE,... or a file (TOML, JSON) of tables by name; `price` is of those that have none. The name
    `cluster` is of all machines of the cluster that runs; if those are of several types, `machine-1` and so on of one each.

    Unclear, BadQuestion or OSError say what is wrong.
    """
    if told.strip().endswith((".toml", ".json")):
        return _of_file(Path(told.strip()), price)
    prices = {name: _price(name, own or price) for name, own in _named(told)}
    own = {name: each for name, each in prices.items() if _is_own(name)}
    found = [named(name, each) for name, each in prices.items() if name not in own]
    if own:
        found += of_cluster(cluster, own.get(CLUSTER, own))
    if not found:
        raise Unclear(f"nothing says which machines may be had: give them with their prices, as {_EXAMPLE}")
    return tuple(found)


def _named(told: str) -> list[tuple[str, str]]:
    split = (part.partition("=") for part in parts(told, "node types"))
    return [(name.strip(), price.strip()) for name, _, price in split]


def _is_own(name: str) -> bool:
    return name == CLUSTER or re.fullmatch(r"machine(-\d+)?", name) is not None


def _price(name: str, told: str) -> float:
    if not told:
        raise Unclear(f"nothing says what an hour of {name!r} costs: give it as {name}=4.10")
    return number(told, f"the price of {name!r}")


def _of_file(path: Path, price: str) -> tuple[NodeType, ...]:
    content = path.read_bytes()[: _LARGEST_FILE + 1]
    try:
        if len(content) > _LARGEST_FILE:
            raise ValueError("it is larger than 1 MiB")
        text = content.decode()
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unclear(f"{path} has no node types: {error}") from error
    if not isinstance(tables, dict) or not tables:
        raise Unclear(f"{path} has no node types: it should have a table for each, by its name")
    return tuple(_of_table(f"{path}: {name}", name, table, price) for name, table in tables.items())


def _of_table(where: str, name: str, table: Any, price: str) -> NodeType:
    if not isinstance(table, dict):
        raise Unclear(f"{where} is no table")
    if unknown := sorted(table.keys() - _KEYS):
        raise Unclear(f"{where} has no key {unknown[0]!r}: those are {', '.join(sorted(_KEYS))}")
    price_per_h = _price(name, str(table.get("price_per_h", price)))
    kind = NodeType(name, price_per_h, 0, 0, 0, {})
    if "like" in table:
        kind = replace(named(str(table["like"]), price_per_h), name=name)
    sizes: dict[str, Any] = {key: int(size_bytes(str(table[key]), f"{where}.{key}")) for key in _SIZES if key in table}
    nodes = table.get("nodes", kind.nodes)
    if type(nodes) is not int:
        raise Unclear(f"{where}.nodes: {nodes!r} is no number of nodes")
    return replace(kind, nodes=nodes, rates={**kind.rates, **_rates(where, table.get("rates", {}))}, **sizes)


def _rates(where: str, told: Any) -> Mapping[str, Rate]:
    if not isinstance(told, dict):
        raise Unclear(f"{where}.rates is no table")
    found = {}
    for name, value in _flat(told):
        rate = number(str(value), f"{where}.rates.{name}")
        found[name] = Rate(rate, rate, 1)
    return found


def _flat(told: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """In TOML formed.1 is a key in a table."""
    found: list[tuple[str, Any]] = []
    for key, value in told.items():
        found += _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(f"{before}{key}", value)]
    return found
