"""What happens in a world, and what is told of it: events, and what only those who carry orders out hear of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schedules.events import Event, RequestBroke, RequestRefused


@dataclass(frozen=True)
class CaughtUp:
    """The request that is followed at `group` has `tokens` there, prompt and all, and all but the last are taken in. The KV
    cache of the first `copied_tokens` came from where it runs."""

    request: str
    group: str
    tokens: int
    copied_tokens: int
    copied_bytes: int


@dataclass(frozen=True)
class Yielded:
    """The request was given up by `group`, and all its tokens were told."""

    request: str
    group: str


Told = Event | CaughtUp | Yielded

OfAttempt = RequestBroke | RequestRefused | CaughtUp | Yielded
"""What is told of an attempt beside its tokens, by its name."""

Happening = Callable[[float], Sequence[Told]]
"""Given the time that it is by then, in seconds, it does its part, and says what is to be told of it, in order."""
