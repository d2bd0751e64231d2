"""What a trace's lines are called where it was recorded, and which format a file has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from schedules.traces.errors import BadTrace, BadWish
from schedules.traces.times import is_time

ROLES = ("time", "model", "prompt", "answer", "max", "duration")
Places = Mapping[str, str]
"""Columns by their role."""


@dataclass(frozen=True)
class Format:
    """`columns` that a file of it has, by role. What has a `duration` has ended at its time. With `minutes` each row is a
    model, and its calls are counted for each minute."""

    name: str
    columns: Places
    unit: str = "s"
    json: bool = False
    minutes: bool = False


_KNOWN = (
    Format("azure-functions-2021", {"time": "end_timestamp", "model": "func", "duration": "duration"}),
    Format("azure-functions-2019", {"model": "HashFunction"}, minutes=True),
    Format("azure-llm-2023", {"time": "TIMESTAMP", "prompt": "ContextTokens", "answer": "GeneratedTokens"}),
    Format("mooncake", {"time": "timestamp", "prompt": "input_length", "answer": "output_length"}, "ms", json=True),
)
PLAIN, PLAIN_JSON = Format("csv", {}), Format("jsonl", {}, json=True)
FORMATS: Mapping[str, Format] = MappingProxyType({each.name: each for each in (*_KNOWN, PLAIN, PLAIN_JSON)})

_USUAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "time": ("at_s", "time", "timestamp", "ts", "arrival", "arrival_time", "arrived_at", "start", "start_time", "date"),
        "model": ("model", "model_name", "name", "func", "function", "app"),
        "prompt": ("prompt_tokens", "input_tokens", "input_length", "contexttokens", "request tokens", "prompt", "input"),
        "answer": (
            "answer_tokens", "output_tokens", "output_length", "completion_tokens", "generatedtokens", "generated_tokens",
            "response tokens", "answer", "output",
        ),
        "max": ("max_tokens", "max_completion_tokens"),
    }
)  # fmt: skip
_WITHOUT_HEADER: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: ("time",),
        2: ("time", "model"),
        3: ("time", "prompt", "answer"),
        4: ("time", "model", "prompt", "answer"),
        5: ("time", "model", "prompt", "answer", "max"),
    }
)


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, as far as that is said: its format, columns by role (by name, or by place from 1 on where
    there is no header), and the unit of its times. With `skip_bad` what cannot be read is counted and passed over."""

    format: str = ""
    columns: Places = field(default_factory=dict)
    unit: str = ""
    skip_bad: bool = False


def named(format_name: str) -> Format | None:
    """The format of a name; None if none is named. BadWish if there is no such."""
    if not format_name:
        return None
    if format_name not in FORMATS:
        raise BadWish(f"{format_name!r} is no format: those are {', '.join(FORMATS)}")
    return FORMATS[format_name]


def recognise(keys: Sequence[str], *, json: bool) -> Format:
    """The first known format whose columns are all there."""
    here = set(keys)
    for known in _KNOWN:
        if known.json == json and set(known.columns.values()) <= here and (not known.minutes or "1" in here):
            return known
    return PLAIN_JSON if json else PLAIN


def places(known: Format, told: Places, keys: Sequence[str]) -> dict[str, str]:
    """Which column has which role, of those that there are: as told, as the format has it, or by its usual name. BadTrace if
    one that is told is not there, or none has the times."""
    found = dict(known.columns) or _usual(keys)
    for role, column in found.items():
        if role not in told and column not in keys:
            raise BadTrace(f"a trace of the format {known.name} has a column {column!r}: there are {listed(keys)}")
    for role, column in told.items():
        found[role] = _there(column, keys)
    if "time" not in found and not known.minutes:
        raise BadTrace(f"no column looks like a time: say which it is, of {listed(keys)}")
    return found


def places_without_header(row: Sequence[str], told: Places) -> dict[str, str]:
    """The same by places from 1 on, where the first line is a request already."""
    keys = [str(place) for place in range(1, len(row) + 1)]
    if told:
        return {role: _there(column, keys) for role, column in told.items()}
    if len(row) not in _WITHOUT_HEADER:
        raise BadTrace(
            f"a line of {len(row)} columns without a header above it: say which column has which role, from 1 on"
        )
    roles = _WITHOUT_HEADER[len(row)]
    if len(row) == 2 and row[1].strip().isdigit():
        roles = ("time", "prompt")
    return dict(zip(roles, keys, strict=True))


def has_header(row: Sequence[str]) -> bool:
    """Whether a first line has names, and not yet a request."""
    return not any(is_time(cell.strip()) for cell in row) or recognise(row, json=False).minutes


def listed(keys: Sequence[str]) -> str:
    """Columns for a person, not all of many."""
    shown = ", ".join(repr(key[:40]) for key in keys[:12])
    return f"{shown} and {len(keys) - 12} more" if len(keys) > 12 else shown


def _usual(keys: Sequence[str]) -> dict[str, str]:
    lower = {key.strip().lower(): key for key in reversed(keys)}
    return {
        role: next(lower[name] for name in names if name in lower)
        for role, names in _USUAL.items()
        if set(names) & set(lower)
    }


def _there(column: str, keys: Sequence[str]) -> str:
    if column in keys:
        return column
    alike = [key for key in keys if key.strip().lower() == column.strip().lower()]
    if len(alike) != 1:
        raise BadTrace(f"there is no column {column!r}: there are {listed(keys)}")
    return alike[0]
