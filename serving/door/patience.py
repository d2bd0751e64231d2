"""How long a client waits for its first token, as far as its headers say."""

from math import inf

from fastapi import Request

from serving.errors import BadRequest

DEADLINE = "X-Firsttoken-Deadline-S"
"""The header by which a client says so itself."""
READ_TIMEOUT = "x-stainless-read-timeout"
"""The header by which OpenAI's clients say after how many seconds without a byte they are gone."""


def patience_s(request: Request, most_s: float, *, stream: bool) -> float:
    """In seconds from its arrival, at most `most_s`; BadRequest if it says no number. Who reads a stream has heartbeats, and
    is not gone."""
    said = request.headers.get(DEADLINE)
    wished_s = _seconds(said)
    if said is not None and wished_s is None:
        raise BadRequest(f"{DEADLINE}: it is not a number of seconds above 0", DEADLINE)
    read_s = None if stream else _seconds(request.headers.get(READ_TIMEOUT))
    return min(most_s, wished_s or inf, read_s or inf)


def _seconds(said: str | None) -> float | None:
    """A header's number above 0; None if it is none."""
    try:
        found = float(said or "")
    except ValueError:
        return None
    return found if 0.0 < found < inf else None
