"""Which budgets and which horizon a run goes by: what was typed for it, what Prefect's variables say, or the settings."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flows.errors import Unclear
from flows.planning.typed import seconds, size_bytes
from flows.prewarming.foresight import Foresight
from schedules.foresight.past import DAY_S, MINUTE_S
from schedules.foresight.plan import Budgets

BUDGETS, HORIZON = "firsttoken_prewarm_budgets", "firsttoken_prewarm_horizon_s"
"""Prefect's variables: an object with some of the budgets by name, and seconds or a time as 15min."""
_NAMES = tuple(field.name for field in fields(Budgets))
_BUDGETS, _HORIZON = f"the Prefect variable {BUDGETS}", f"the Prefect variable {HORIZON}"
_LONGEST = 10_000


@dataclass(frozen=True)
class Chosen:
    """What a run goes by. `horizon_s` is a whole number of minutes; `said` is where each comes from, in sentences."""

    budgets: Budgets
    horizon_s: float
    said: tuple[str, ...]


def chosen(foresight: Foresight, horizon: str, variables: Mapping[str, object]) -> Chosen:
    """By what was typed for the run ("" if nothing was), the values of the variables that there are, and the settings.
    Unclear says what is wrong with which of them."""
    told = _object(variables.get(BUDGETS))
    budgets = _budgets(foresight.budgets, told)
    values = ", ".join(f"{name} {_shown(getattr(budgets, name))}" for name in _NAMES)
    by = f"{', '.join(told)} by {_BUDGETS}, all others by the settings" if told else "by the settings [prewarm]"
    horizon_s, source = _horizon(foresight, horizon, variables.get(HORIZON))
    return Chosen(
        budgets, horizon_s, (f"Budgets: {values}; {by}.", f"Horizon: {horizon_s / MINUTE_S:g} min, by {source}.")
    )


def _horizon(foresight: Foresight, typed: str, variable: object) -> tuple[float, str]:
    """In seconds, and who says so."""
    if typed.strip():
        return _minutes(seconds(typed, "the horizon"), "the horizon"), "the run's parameter"
    if variable is None:
        return _minutes(foresight.horizon_s, "the horizon"), "the settings [prewarm]"
    if isinstance(variable, str):
        return _minutes(seconds(variable, _HORIZON), _HORIZON), _HORIZON
    if isinstance(variable, bool) or not isinstance(variable, int | float):
        raise Unclear(f"{_HORIZON}: {_short(variable)} is no time: 900 and 15min are")
    return _minutes(float(variable), _HORIZON), _HORIZON


def _minutes(horizon_s: float, what: str) -> float:
    if not MINUTE_S <= horizon_s <= DAY_S:
        raise Unclear(f"{what}: {horizon_s:g} s is not from a minute to a day")
    return math.ceil(horizon_s / MINUTE_S) * MINUTE_S


def _object(variable: object) -> Mapping[str, Any]:
    """The variable as an object, which people also write as text."""
    if isinstance(variable, str) and len(variable) <= _LONGEST:
        try:
            variable = json.loads(variable)
        except ValueError as error:
            raise Unclear(f"{_BUDGETS}: {_short(variable)} is no JSON: {error}") from error
    if variable is None:
        return {}
    if not isinstance(variable, dict):
        raise Unclear(f'{_BUDGETS}: {_short(variable)} is no object, as {{"dram_share": 0.5}} is')
    return variable


def _budgets(budgets: Budgets, told: Mapping[str, Any]) -> Budgets:
    unknown = [name for name in told if name not in _NAMES]
    if unknown:
        raise Unclear(f"{_BUDGETS}: there is no budget {_short(unknown[0])}: those are {', '.join(_NAMES)}")
    try:
        values: dict[str, Any] = {name: _value(name, value) for name, value in told.items()}
        return replace(budgets, **values)
    except ValueError as error:
        raise Unclear(f"{_BUDGETS}: {error}") from error


def _value(name: str, value: object) -> float | int | None:
    if name == "moved_bytes":
        if isinstance(value, str):
            value = size_bytes(value, _BUDGETS)
        if value is None or value == 0:
            return None  # as in the settings: as much as fits
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unclear(f"{_BUDGETS}: {name} is a number, not {_short(value)}")
    return int(value) if name == "moved_bytes" else float(value)


def _shown(value: float | None) -> str:
    return "without bound" if value is None else f"{value:g}" if isinstance(value, float) else f"{value:,}"


def _short(value: object) -> str:
    return repr(value)[:60]
