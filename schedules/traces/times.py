"""When something happened, as people and programs write it."""

import re
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType

import numpy as np

from schedules.traces.errors import BadTrace, BadWish

UNITS: Mapping[str, float] = MappingProxyType({"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0})
"""Seconds of each."""
_DATE = re.compile(
    r"((?:19|20|21)\d\d-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?))?\s*(Z|UTC|[+-]\d\d:?\d\d)?",
    re.IGNORECASE,
)
UNIX_FROM_S = 1e9
"""A number of seconds from here on is a date: it is a time since 1970."""


def unit_s(name: str) -> float:
    """Seconds of a unit; BadWish if there is no such."""
    if name not in UNITS:
        raise BadWish(f"{name!r} is no unit of time: those are {', '.join(UNITS)}")
    return UNITS[name]


def number_s(text: str, unit: float) -> float | None:
    """A number of units in seconds; None if it is no number. BadTrace for one that is no time."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not isfinite(value) or value < 0:
        raise BadTrace(f"{text[:40]!r} is no time: those are from 0 on")
    return value * unit


def date_ns(text: str) -> int | None:
    """Nanoseconds since 1970 of an ISO date, in UTC unless it says otherwise; None if it is none."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    day, clock, zone = match.groups()
    try:
        at_ns = int(np.datetime64(f"{day}T{(clock or '00:00').replace(',', '.')}", "ns").astype(np.int64))
    except ValueError:
        return None
    return at_ns - _offset_ns(zone)


def _offset_ns(zone: str | None) -> int:
    if zone is None or zone.upper() in ("Z", "UTC"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    return (-1 if zone[0] == "-" else 1) * (hours * 60 + minutes) * 60 * 10**9


def is_time(text: str) -> bool:
    """Whether it could be when something happened."""
    try:
        return number_s(text, 1.0) is not None or date_ns(text) is not None
    except BadTrace:
        return True
