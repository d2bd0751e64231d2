"""What a plan's inputs say of machines and models. They are JSON: what is not there, or is something else, is not known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schedules.capacity.plan import Plan
from schedules.rates import NIC


@dataclass(frozen=True)
class Wanted:
    """Of one model; None is not known, or no limit."""

    requests: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None


def models(plan: Plan) -> Mapping[str, Wanted]:
    """By name."""
    return {
        each["name"]: Wanted(_number(each, "requests"), _number(each, "ttft_s"), _number(each, "tpot_s"))
        for each in _records(plan.inputs, "models")
    }


def limits(plan: Plan) -> tuple[float, ...]:
    """Of the times to first tokens, each once, the strictest first."""
    return tuple(sorted({each.ttft_s for each in models(plan).values() if each.ttft_s is not None}))


def accelerators(plan: Plan) -> Mapping[str, int]:
    """How many a machine has, by its type."""
    return {name: int(count) for name, each in _types(plan).items() if (count := _number(each, "nodes")) is not None}


def cards(plan: Plan) -> Mapping[str, float]:
    """Bytes a second of the network card of one accelerator's node, by type of machine."""
    found = {}
    for name, each in _types(plan).items():
        rates = each.get("rates")
        rate = rates.get(NIC) if isinstance(rates, Mapping) else None
        bytes_per_s = _number(rate, "mean") if isinstance(rate, Mapping) else None
        if bytes_per_s is not None:
            found[name] = bytes_per_s
    return found


def _types(plan: Plan) -> Mapping[str, Mapping[str, Any]]:
    choices = plan.inputs.get("choices")
    return {each["name"]: each for each in _records(choices, "types")} if isinstance(choices, Mapping) else {}


def _records(of: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = of.get(name)
    listed = found if isinstance(found, list | tuple) else ()
    return [each for each in listed if isinstance(each, Mapping) and isinstance(each.get("name"), str)]


def _number(of: Mapping[str, Any], name: str) -> Any:
    value = of.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
