"""A plan of prewarming as JSON, for whoever is told of it over HTTP, and back."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

from schedules.facts import ModelKey
from schedules.foresight.plan import Kept, LeftOut, Plan, Staging
from schedules.foresight.retention import Retention

VERSION = 1
_Read = TypeVar("_Read")
_TIERS, _SOURCES = ("dram", "ssd"), ("remote", "peer", "ssd")


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """All of it, in values that JSON has."""
    return {
        "version": VERSION,
        "made_s": plan.made_s,
        "until_s": plan.until_s,
        "stagings": [
            {
                "node": staging.node, **_key_as_json(staging.key), "units": list(staging.units), "tier": staging.tier,
                "size_bytes": staging.size_bytes, "source": staging.source, "before_s": staging.before_s,
                "saved_s": staging.saved_s, "reason": staging.reason,
            }
            for staging in plan.stagings
        ],
        "dram": {node: _retention_as_json(retention) for node, retention in plan.dram.items()},
        "ssd": {node: _retention_as_json(retention) for node, retention in plan.ssd.items()},
        "kept": [
            {**_key_as_json(kept.key), "replicas": kept.replicas, "saved_s": kept.saved_s, "reason": kept.reason}
            for kept in plan.kept
        ],
        "worth": [{**_key_as_json(key), "saved_s": saved_s} for key, saved_s in plan.worth.items()],
        "left_out": [{"model": each.model, "reason": each.reason} for each in plan.left_out],
    }  # fmt: skip


def read_plan(told: object) -> Plan:
    """What `plan_as_json` gave. ValueError says in a sentence what is wrong with anything else."""
    plan = _object(told, "the plan")
    version = plan.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise ValueError(f"the plan is of version {version!r}: version {VERSION} is read here")
    made_s, until_s = _number(plan, "made_s"), _number(plan, "until_s")
    if until_s < made_s:
        raise ValueError(f"the plan is over at {until_s:g}, before it was made at {made_s:g}")
    return Plan(
        made_s,
        until_s,
        _each(plan, "stagings", _staging),
        {node: _retention(each, node) for node, each in _object(plan.get("dram"), "dram").items()},
        {node: _retention(each, node) for node, each in _object(plan.get("ssd"), "ssd").items()},
        _each(plan, "kept", _kept),
        dict(_each(plan, "worth", lambda each: (_key(each), _number(each, "saved_s", least=0.0)))),
        _each(plan, "left_out", lambda each: LeftOut(_text(each, "model"), _text(each, "reason"))),
    )


def _key_as_json(key: ModelKey) -> dict[str, str]:
    return {"model": key.name, "digest": key.digest}


def _retention_as_json(retention: Retention) -> dict[str, Any]:
    return {"worth": dict(retention.worth), "otherwise": retention.otherwise}


def _staging(told: Mapping[str, Any]) -> Staging:
    return Staging(
        _text(told, "node"), _key(told), _texts(told, "units"), _one_of(told, "tier", _TIERS), _count(told, "size_bytes"),
        _one_of(told, "source", _SOURCES), _number(told, "before_s"), _number(told, "saved_s", least=0.0),
        _text(told, "reason"),
    )  # fmt: skip


def _kept(told: Mapping[str, Any]) -> Kept:
    return Kept(_key(told), _count(told, "replicas"), _number(told, "saved_s", least=0.0), _text(told, "reason"))


def _retention(told: object, node: str) -> Retention:
    retention = _object(told, f"what node {node} keeps")
    worth = _object(retention.get("worth"), f"what units are worth on node {node}")
    each = {digest: _number(worth, digest, least=0.0) for digest in worth}
    return Retention(each, _number(retention, "otherwise", least=0.0))


def _key(told: Mapping[str, Any]) -> ModelKey:
    return ModelKey(_text(told, "model"), _text(told, "digest"))


def _object(told: object, what: str) -> Mapping[str, Any]:
    if not isinstance(told, dict) or not all(isinstance(name, str) for name in told):
        raise ValueError(f"{what} is no object")
    return told


def _each(plan: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any]], _Read]) -> tuple[_Read, ...]:
    told = plan.get(name)
    if not isinstance(told, list):
        raise ValueError(f"{name} is no list")
    return tuple([read(_object(each, f"one of {name}")) for each in told])


def _number(told: Mapping[str, Any], name: str, *, least: float | None = None) -> float:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name} is no number")
    if least is not None and value < least:
        raise ValueError(f"{name} is {value:g}, less than {least:g}")
    return float(value)


def _count(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is no count")
    return value


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _texts(told: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = told.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} is no list of texts")
    return tuple(value)


def _one_of(told: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    value = _text(told, name)
    if value not in known:
        raise ValueError(f"{name} is {value!r}, and none of {', '.join(known)}")
    return value
