"""How long a stage's steps take to compute, beside the loop: told now and then, and at no cost to a step.

A GPU computes later than it is told to: there the time is taken by the GPU, between two events that stand before and behind
a step in what it is told to do. So is how far it has come.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from schedules.rates import PREFILL_TOKENS

_KEPT_STEPS = 1024


class Event(Protocol):
    """A mark among what a GPU is told to do."""

    def query(self) -> bool:
        """Whether the GPU has come past it. RuntimeError if the GPU has failed."""
        ...

    def elapsed_time(self, end_event: "Event") -> float:
        """Milliseconds from it to another, both passed."""
        ...


@dataclass(frozen=True)
class Paces:
    """Mean seconds of a step of one token, and mean seconds a token in long steps; 0 where there was none."""

    decode_s: float
    prefill_s_per_token: float


@dataclass(frozen=True)
class Queued:
    """A step of so many tokens that a GPU was told of. One that `waited` for a unit says nothing of how long steps take."""

    tokens: int
    first: Event
    last: Event
    waited: bool


@dataclass(frozen=True)
class Standing:
    """The oldest step that a GPU is not done with: its tokens, and for how many seconds it was seen like that. It is
    `begun` if the GPU is at it, else something that the GPU was told before it is not over, as hidden states that do not
    come."""

    tokens: int
    seconds: float
    begun: bool


class Pace:
    """Call `begin` and `end` around each step's layers, `wait` for what else passed within it; `take` and `standing` from
    another thread, one of it.

    `mark` puts an event behind all that the GPU was told until then.
    """

    def __init__(self, device: torch.device, mark: Callable[[], Event] | None = None) -> None:
        self._cuda, self._mark = device.type == "cuda", mark or _mark
        self._done: deque[tuple[int, float]] = deque(maxlen=_KEPT_STEPS)
        self._queued: deque[Queued] = deque(maxlen=_KEPT_STEPS)
        self._tokens, self._waited_s, self._since_s = 0, 0.0, 0.0
        self._first: Event | None = None
        self._seen: tuple[Queued, bool, float] | None = None
        self.longest: tuple[float, int] | None = None
        """Of the steps that a GPU was seen to compute the longest: its seconds and its tokens."""

    def begin(self, tokens: int) -> None:
        """The layers begin to compute a step."""
        self._tokens, self._waited_s = tokens, 0.0
        if self._cuda:
            self._first = self._mark()
        self._since_s = time.perf_counter()

    def wait(self, seconds: float) -> None:
        """So long the step waited for a unit."""
        self._waited_s += seconds

    def end(self) -> None:
        """All layers are told, on a CPU: done."""
        if self._first is None:
            self._done.append((self._tokens, time.perf_counter() - self._since_s - self._waited_s))
        else:
            self._queued.append(Queued(self._tokens, self._first, self._mark(), self._waited_s > 0))

    def take(self) -> Paces:
        """Of the steps that were done since the last call."""
        self._pass_over()
        decodes = [0, 0.0]
        prefills = [0, 0.0]
        while self._done:
            tokens, seconds = self._done.popleft()
            kind = decodes if tokens == 1 else prefills if tokens >= PREFILL_TOKENS else None
            if kind is not None:
                kind[0] += tokens
                kind[1] += seconds
        return Paces(*(seconds / tokens if tokens else 0.0 for tokens, seconds in (decodes, prefills)))

    def standing(self, now_s: float) -> Standing | None:
        """What the GPU is at or cannot come to; None if it has done all steps that it was told of. The time counts from when
        that was first seen here, so this is to be asked often."""
        self._pass_over()
        if not self._queued:
            return None
        oldest = self._queued[0]
        begun = oldest.first.query()
        if self._seen is None or self._seen[0] is not oldest or self._seen[1] is not begun:
            self._seen = oldest, begun, now_s
        return Standing(oldest.tokens, now_s - self._seen[2], begun)

    def _pass_over(self) -> None:
        """Steps that the GPU is done with are queued no more."""
        while self._queued and self._queued[0].last.query():
            step = self._queued.popleft()
            if not step.waited:
                seconds = step.first.elapsed_time(step.last) / 1000.0
                self._done.append((step.tokens, seconds))
                self.longest = max(self.longest or (0.0, 1), (seconds, step.tokens))


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
