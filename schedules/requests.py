"""A request as a value: how long it is, how far it has come, where it runs. Whatever moves it makes another one of it."""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from schedules.facts import ModelKey

PROMPTS_BESIDE, PROMPTS_BESIDE_ON_GPU, PROMPTS_ALONE = 256, 1024, 2048
"""Tokens of prompts in one step: beside others that decode, whose next token they hold up, and where nobody does."""
EMBEDDED = 512
"""The same where vectors are made, on a CPU: more in a step are computed no faster, and it is what cannot be given up."""
_SMALLEST_ROOM = 64


@lru_cache(maxsize=1 << 14)
def room_tokens(tokens: int, most_tokens: int) -> int:
    """The KV cache that a request of `tokens` is given: the next of 64, 96, 128, 192, 256, ..., at most `most_tokens`.

    Requests with rooms of one size can be attended to together.
    """
    room = _SMALLEST_ROOM
    while room < tokens:
        room = room * 3 // 2 if room & (room - 1) == 0 else room * 4 // 3
    return max(tokens, min(room, most_tokens))


class Stand(StrEnum):
    """Where a request stands. One that is SHIFTING runs where it was, and has a room where it will."""

    HELD = "held"
    RUNNING = "running"
    SHIFTING = "shifting"
    OVER = "over"


class Turn(StrEnum):
    """What may happen to a request."""

    ASSIGNED = "assigned"
    SHIFT = "shift"
    SHIFTED = "shifted"
    STAYED = "stayed"
    BROKEN = "broken"
    ENDED = "ended"


TABLE: Mapping[tuple[Stand, Turn], Stand] = {
    (Stand.HELD, Turn.ASSIGNED): Stand.RUNNING,
    (Stand.HELD, Turn.ENDED): Stand.OVER,
    (Stand.RUNNING, Turn.SHIFT): Stand.SHIFTING,
    (Stand.RUNNING, Turn.BROKEN): Stand.HELD,
    (Stand.RUNNING, Turn.ENDED): Stand.OVER,
    (Stand.SHIFTING, Turn.SHIFTED): Stand.RUNNING,
    (Stand.SHIFTING, Turn.STAYED): Stand.RUNNING,
    (Stand.SHIFTING, Turn.BROKEN): Stand.HELD,
    (Stand.SHIFTING, Turn.ENDED): Stand.OVER,
}


class IllegalTurn(ValueError):
    """It cannot happen to a request that stands so; nothing has changed."""


class Request(NamedTuple):
    """`prompt_tokens` and `max_tokens` are those that it came with, `generated` of the latter are there. It was assigned
    `attempts` times, the last time to `group`, or went on there, which is no attempt. While it is shifted it has a room at
    `to` as well. `room` is the KV cache that it needs, in tokens, as a replica counts it; since `held_s` it was held, the
    last time that it was.
    """

    name: str
    key: ModelKey
    prompt_tokens: int
    max_tokens: int
    arrived_s: float
    deadline_s: float
    room: int
    held_s: float
    cold: bool = False
    """Whether it met no replica that served."""
    stand: Stand = Stand.HELD
    generated: int = 0
    attempts: int = 0
    group: str = ""
    to: str = ""
    straight: bool = False
    """Whether it went at once to a replica that had nothing else to do."""

    @property
    def wants_vector(self) -> bool:
        """Whether it is to have its prompt's vector, and no token."""
        return self.max_tokens == 0

    @property
    def tokens(self) -> int:
        """What its prefill would take now."""
        return self.prompt_tokens + self.generated

    def assigned(self, group: str, *, straight: bool = False) -> "Request":
        """It runs there from now on."""
        return self._with(self._to(Turn.ASSIGNED), self.generated, self.attempts + 1, group, straight)

    def progressed(self, tokens: int) -> "Request":
        """So many more of its tokens are there."""
        return self._with(self.stand, self.generated + tokens, self.attempts, self.group, self.straight)

    def shifting(self, to: str) -> "Request":
        """It is to go on there."""
        return self._replace(stand=self._to(Turn.SHIFT), to=to)

    def shifted(self) -> "Request":
        """It goes on where it was to."""
        return self._replace(stand=self._to(Turn.SHIFTED), group=self.to, to="")

    def stayed(self) -> "Request":
        """It goes on where it was."""
        return self._replace(stand=self._to(Turn.STAYED), to="")

    def broken(self, now_s: float) -> "Request":
        """It waits again, with what it has; with nothing, as long as it has waited already."""
        held_s = now_s if self.generated else self.held_s
        return self._replace(stand=self._to(Turn.BROKEN), group="", to="", held_s=held_s)

    def ended(self) -> "Request":
        """Whatever it ended by."""
        return self._replace(stand=self._to(Turn.ENDED))

    def _with(self, stand: Stand, generated: int, attempts: int, group: str, straight: bool) -> "Request":
        """As `_replace` would make it, in a third of the time: every request comes through here."""
        return Request(
            self.name, self.key, self.prompt_tokens, self.max_tokens, self.arrived_s, self.deadline_s, self.room,
            self.held_s, self.cold, stand, generated, attempts, group, self.to, straight,
        )  # fmt: skip

    def _to(self, turn: Turn) -> Stand:
        try:
            return TABLE[self.stand, turn]
        except KeyError:
            raise IllegalTurn(f"a request that is {self.stand} cannot be {turn}") from None
