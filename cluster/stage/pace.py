"""How long a stage's steps take to compute, beside the loop: told now and then, and at no cost to a step."""

import time
from collections import deque
from dataclasses import dataclass

import torch

from schedules.rates import PREFILL_TOKENS

_KEPT_STEPS = 1024


@dataclass(frozen=True)
class Paces:
    """Mean seconds of a step of one token, and mean seconds a token in long steps; 0 where there was none."""

    decode_s: float
    prefill_s_per_token: float


class Pace:
    """Call `begin` and `end` around each step's layers, `wait` for what else passed within it; `take` from another thread.

    A GPU computes later than it is told to: there the time is taken by the GPU, and a step that waited is left out.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._done: deque[tuple[int, float]] = deque(maxlen=_KEPT_STEPS)
        self._events: deque[tuple[int, torch.cuda.Event, torch.cuda.Event]] = deque(maxlen=_KEPT_STEPS)
        self._tokens, self._waited_s, self._since_s = 0, 0.0, 0.0
        self._first: torch.cuda.Event | None = None

    def begin(self, tokens: int) -> None:
        """The layers begin to compute a step."""
        self._tokens, self._waited_s = tokens, 0.0
        if self._cuda:
            self._first = _mark()
        self._since_s = time.perf_counter()

    def wait(self, seconds: float) -> None:
        """So long the step waited for a unit."""
        self._waited_s += seconds

    def end(self) -> None:
        """All layers are told, on a CPU: done."""
        if self._first is None:
            self._done.append((self._tokens, time.perf_counter() - self._since_s - self._waited_s))
        elif not self._waited_s:
            self._events.append((self._tokens, self._first, _mark()))

    def take(self) -> Paces:
        """Of the steps that were done since the last call."""
        while self._events and self._events[0][2].query():
            tokens, first, last = self._events.popleft()
            self._done.append((tokens, first.elapsed_time(last) / 1000.0))
        decodes = [0, 0.0]
        prefills = [0, 0.0]
        while self._done:
            tokens, seconds = self._done.popleft()
            kind = decodes if tokens == 1 else prefills if tokens >= PREFILL_TOKENS else None
            if kind is not None:
                kind[0] += tokens
                kind[1] += seconds
        return Paces(*(seconds / tokens if tokens else 0.0 for tokens, seconds in (decodes, prefills)))


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
