"""JSON that others wrote: plain values within bounds, or ValueError. What json.loads lets through is not all harmless."""

import json
import math
from typing import Any

MOST_DEPTH = 32
MOST_INTEGER = 2**63
"""What is larger is no size of anything, and no message on the wire can hold it."""


def parse_json(text: bytes) -> Any:
    """The value that `text` holds. ValueError if it is not JSON by the letter: NaN, a number beyond all floats, a name that
    stands twice in one object, and nesting that no reader can follow are not."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_plain(value: object, depth: int = MOST_DEPTH) -> None:
    """ValueError unless what is handed on as it stands is nested at most so deeply and has numbers of a sane size."""
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError("it is nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            check_plain(item, depth - 1)
    elif isinstance(value, int) and not -MOST_INTEGER <= value < MOST_INTEGER:
        raise ValueError("it has a number that is too large")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number
