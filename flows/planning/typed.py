"""What a person types for a plan, read: times, rates, shares, and what is said of models by the patterns of their names."""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from typing import TypeVar

from flows.errors import Unclear

_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {
    "kbit": 125.0, "mbit": 125e3, "gbit": 125e6, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_LONGEST = 10_000
T = TypeVar("T")


def seconds(told: str, what: str) -> float:
    """50ms, 2s, 90, 15min, 2h, 14d. Unclear for anything else; `what` is what it is for."""
    match = re.fullmatch(rf"{_NUMBER}\s*(ms|s|min|h|d)?", told.strip())
    if match is None or len(told) > 20:
        raise Unclear(f"{what}: {told[:40]!r} is no time: 50ms, 2s, 15min, 2h and 14d are")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def size_bytes(told: str, what: str) -> float:
    """80GB, 64GiB, 10gbit, or a number of bytes; of rates those of a second."""
    match = re.fullmatch(rf"{_NUMBER}\s*({'|'.join(_BYTES)}|B)?", told.strip())
    if match is None or len(told) > 20:
        raise Unclear(f"{what}: {told[:40]!r} is no size: 80GB, 64GiB, 25gbit and numbers of bytes are")
    return float(match[1]) * _BYTES.get(match[2] or "B", 1.0)


def number(told: str, what: str) -> float:
    """One that is finite, from 0 on."""
    try:
        value = float(told)
    except ValueError:
        value = -1.0
    if not isfinite(value) or value < 0:
        raise Unclear(f"{what}: {told[:40]!r} is no number from 0 on")
    return value


def shares(told: str, what: str) -> tuple[float, ...]:
    """Such as 1,0.5,0.25."""
    found = tuple(number(part, what) for part in parts(told, what))
    if not found or max(found) > 1:
        raise Unclear(f"{what}: {told[:40]!r} are no shares: those are from 0 to 1, as 1,0.5")
    return found


def parts(told: str, what: str) -> list[str]:
    """What commas separate."""
    if len(told) > _LONGEST:
        raise Unclear(f"{what}: more than {_LONGEST:,} letters are too many")
    return [part for each in told.split(",") if (part := each.strip())]


def by_name(told: str, names: Sequence[str], read: Callable[[str], T], what: str) -> list[T | None]:
    """For each name what is told of it: PATTERN=VALUE, of which the first that fits holds, and VALUE for all others. Unclear
    where a pattern fits none, or there are two values for all others."""
    entries = patterns(told, read, what)
    rest = [value for pattern, value in entries if pattern is None]
    if len(rest) > 1:
        raise Unclear(f"{what}: {told[:60]!r} says two things of all models: PATTERN=VALUE says one of some")
    for pattern, _ in entries:
        if pattern is not None and not any(fnmatchcase(name, pattern) for name in names):
            raise Unclear(f"{what}: {pattern!r} fits no model of the trace: those are {listed(names)}")
    default = rest[0] if rest else None
    fitting = ([value for pattern, value in entries if pattern and fnmatchcase(name, pattern)] for name in names)
    return [values[0] if values else default for values in fitting]


def patterns(told: str, read: Callable[[str], T], what: str) -> list[tuple[str | None, T]]:
    """What is told, with the pattern before it, None where there is none."""
    found = list[tuple[str | None, T]]()
    for part in parts(told, what):
        pattern, equals, value = part.rpartition("=")
        found.append((pattern if equals else None, read(value)))
    return found


def listed(names: Sequence[str], most: int = 6) -> str:
    """A few of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
