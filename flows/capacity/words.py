"""Quantities as a person reads them, with their units; what is not known or not finite is a dash."""

import re
from collections.abc import Mapping
from math import isfinite

from schedules.capacity.answering import words
from schedules.capacity.clusters import Cluster

DASH = "\u2013"
SPACE = "\u00a0"
HOURS_A_MONTH = 730
_SIZES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_GIB = 1 << 30
_UNIT = re.compile(r"(?<=\d) (?=%|(?:s|ms|min|x|[kMGT]i?B)\b)|(?<=\d x) ")


def money(amount: float, currency: str) -> str:
    """Cents as far as they count: $0.0123, $4.50, $12,300, 12,300 EUR."""
    if not isfinite(amount):
        return DASH
    if amount >= 1000 or amount == 0:
        number = f"{amount:,.0f}"
    elif amount >= 0.1:
        number = f"{amount:,.2f}"
    else:
        number = f"{amount:.3g}"
    return f"{currency}{number}" if len(currency) == 1 else f"{number}{SPACE}{currency}"


def percent(share: float) -> str:
    """As in the plan's sentences."""
    return prose(words.percent(share)) if isfinite(share) else DASH


def portion(share: float) -> str:
    """Of all, whichever way it is rounded: also one that is small can be seen."""
    if not isfinite(share):
        return DASH
    return f"{share * 100:.1f}{SPACE}%" if share >= 0.01 else f"{share * 100:.2g}{SPACE}%"


def goal(share: float) -> str:
    """A share that somebody chose, as they wrote it."""
    return f"{share * 100:.10g}{SPACE}%"


def used(share: float | None) -> str:
    """A share of what there is."""
    return DASH if share is None or not isfinite(share) else f"{share * 100:.0f}{SPACE}%"


def limit(value_s: float) -> str:
    """Seconds that somebody chose, as they wrote them."""
    return f"{value_s:.6g}{SPACE}s"


def seconds(value_s: float | None) -> str:
    """Three figures, in milliseconds, seconds or minutes."""
    if value_s is None or not isfinite(value_s):
        return DASH
    if value_s < 0.9995:
        return f"{value_s * 1e3:.{1 if value_s < 0.00995 else 0}f}{SPACE}ms"
    if value_s < 600:
        return f"{value_s:.{2 if value_s < 9.995 else 1 if value_s < 99.95 else 0}f}{SPACE}s"
    return f"{value_s / 60:,.0f}{SPACE}min"


def size(size_bytes: float) -> str:
    """Powers of two if it is whole gibibytes, else powers of ten."""
    if size_bytes and size_bytes % _GIB == 0:
        return f"{size_bytes / _GIB:,.0f}{SPACE}GiB"
    unit, name = next(((unit, name) for unit, name in _SIZES if size_bytes >= unit), _SIZES[-1])
    return f"{size_bytes / unit:,.3g}{SPACE}{name}"


def rate(bytes_per_s: float) -> str:
    """Bytes in a second, powers of ten."""
    unit, name = next(((unit, name) for unit, name in _SIZES if bytes_per_s >= unit), _SIZES[-1])
    return f"{bytes_per_s / unit:,.3g}{SPACE}{name}/s"


def count(number: float, one: str, many: str = "") -> str:
    """A number and what is counted: 1 machine, 1,200 machines."""
    return f"{number:,.0f}{SPACE}{one if number == 1 else many or one + 's'}"


def machines(cluster: Cluster) -> str:
    """How many of which type; those of which there are none are not named."""
    return prose(words.machines_in_words(cluster)) or "no machines"


def budgets(sizes_bytes: Mapping[str, int]) -> str:
    """Sizes by type of machine, the type named only if there are several."""
    if len(sizes_bytes) == 1:
        return size(next(iter(sizes_bytes.values())))
    return ", ".join(f"{size(each)} ({name})" for name, each in sizes_bytes.items()) or DASH


def prose(text: str) -> str:
    """A number stays with its unit."""
    return _UNIT.sub(SPACE, text)


def capital(text: str) -> str:
    """As a line begins."""
    return text[:1].upper() + text[1:]
