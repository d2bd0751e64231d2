"""How many threads compute a stage's steps: as many as the cores give just then, learned from the steps themselves.

The threads of one product wait for each other, so where another process has one of their cores they lose more than they
bring: two threads beside a busy process on two cores are two to five times as slow as one. The operating system does not
tell which cores will be free, so now and then a step is computed by another number of threads and compared with the one
before it. Nothing here knows a clock or a GPU.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from cluster.stage.worker import Pulse

COST = 0.02
"""Of the time of all steps, what tries that turn out slower may take."""
_TRIES = 3
_WORTH = 0.95
"""Another number of threads is taken when its steps last at most so much of what those before them did."""
_LOST = 1.1
"""And after a first try of more than this there is no second."""
_SLOWER = 1.25
"""So much slower than the one before, a step is taken to have lost a core."""
_FEWER, _MORE = -1, 1
_PATIENCE_S = {_FEWER: 5.0, _MORE: 1.0}
"""Seconds of steps after all numbers in a direction were tried. Lost cores show in the steps, cores that are free do not."""
_LONGEST_S = 60.0
"""No single try, however slow, puts off the next for longer: the machine may have stood still."""
_ALIKE = 1.25
_BY_TOKEN = 32
"""From so many tokens a step lasts in proportion to them; below, reading the weights takes the time."""


def numbers_of_threads(most: int) -> tuple[int, ...]:
    """What is worth trying, from 1 to `most`: all but one, and others a third to a half apart."""
    numbers, number = {1, most - 1, most}, 1
    while number < most:
        numbers |= {number, number + number // 2}
        number *= 2
    return tuple(sorted(number for number in numbers if 1 <= number <= most))


@dataclass(frozen=True)
class _Step:
    tokens: int
    seconds: float

    def expects_s(self, tokens: int) -> float | None:
        """How long a step of `tokens` right after this one would last as it did; None if they are not comparable."""
        if max(tokens, self.tokens) > _ALIKE * min(tokens, self.tokens):
            return None
        return self.seconds * tokens / self.tokens if tokens >= _BY_TOKEN else self.seconds


@dataclass
class _Trial:
    """Of `rung` in place of the one that is taken; `ratios` of its steps' seconds to those before them."""

    rung: int
    direction: int
    ratios: list[float] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.ratios[0] > _LOST or len(self.ratios) == _TRIES

    @property
    def won(self) -> bool:
        return statistics.median(self.ratios) < _WORTH


class _Kind:
    """Steps of about one size, which are computed by `numbers[rung]` threads: at first as many as may be."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers, self._rung = numbers, len(numbers) - 1
        self._before: _Step | None = None
        self._expected_s: float | None = None  # of a step that is a try
        self._trial: _Trial | None = None
        self._owed_s = 0.0
        self._patience_s = {_FEWER: 0.0, _MORE: 0.0}
        self._lost = {_FEWER: 0, _MORE: 0}

    def choose(self, tokens: int) -> int:
        self._expected_s = None
        expected_s = self._before.expects_s(tokens) if self._before is not None else None
        if expected_s is not None:
            self._trial = self._trial or self._begin()
            if self._trial is not None:
                self._expected_s = expected_s
                return self._numbers[self._trial.rung]
        return self._numbers[self._rung]

    def learn(self, tokens: int, seconds: float) -> None:
        if self._expected_s is None or self._trial is None:
            self._pass(_Step(tokens, seconds))
        else:
            self._judge(self._trial, seconds, self._expected_s)

    def _pass(self, step: _Step) -> None:
        """A step by as many threads as are taken: what tries have cost is earned back."""
        self._owed_s = max(0.0, self._owed_s - step.seconds)
        for direction in self._patience_s:
            self._patience_s[direction] -= step.seconds
        expected_s = self._before.expects_s(step.tokens) if self._before is not None else None
        if expected_s is not None and step.seconds > _SLOWER * expected_s:
            self._patience_s[_FEWER] = 0.0
        self._before = step

    def _judge(self, trial: _Trial, seconds: float, expected_s: float) -> None:
        self._before = None  # the next step is one to compare with
        self._owed_s = min(_LONGEST_S, self._owed_s + max(0.0, seconds - expected_s) / COST)
        trial.ratios.append(seconds / expected_s)
        if not trial.over:
            return
        self._trial = None
        if trial.won:
            self._rung = trial.rung
            self._patience_s[-trial.direction] = _PATIENCE_S[-trial.direction]
        else:
            self._lost[trial.direction] += 1
            if self._lost[trial.direction] % self._room(trial.direction) == 0:
                self._patience_s[trial.direction] = _PATIENCE_S[trial.direction]

    def _begin(self) -> _Trial | None:
        """After each trial that was lost in a direction the next goes a rung further there, and at the end begins anew."""
        if self._owed_s > 0:
            return None
        for direction, patience_s in self._patience_s.items():
            room = self._room(direction)
            if room and patience_s <= 0:
                return _Trial(self._rung + direction * (self._lost[direction] % room + 1), direction)
        return None

    def _room(self, direction: int) -> int:
        """Rungs in a direction."""
        return self._rung if direction == _FEWER else len(self._numbers) - 1 - self._rung


class ThreadChoice:
    """Between 1 and `most` threads, for each size of steps by itself: decoding is bound by memory, a prompt by the cores.

    Call `choose` before a step and `learn` after it, with how long it took; a step that waited for something is left out.
    """

    def __init__(self, most: int) -> None:
        self._numbers = numbers_of_threads(most)
        self._kinds: dict[int, _Kind] = {}

    def choose(self, tokens: int) -> int:
        """By how many threads a step of so many tokens, which is 1 or more, is to be computed."""
        return self._kind(tokens).choose(tokens)

    def learn(self, tokens: int, seconds: float) -> None:
        """The step that was chosen for last was computed so, in so many seconds."""
        self._kind(tokens).learn(tokens, seconds)

    def _kind(self, tokens: int) -> _Kind:
        """Of a size are 1, 2 to 7, 8 to 31, 32 to 127 tokens, and so on."""
        return self._kinds.setdefault(tokens.bit_length() // 2, _Kind(self._numbers))


class Crew:
    """A pulse around another, whose steps are computed by as many threads as `choice` says; for one thread that calls it.

    The first step is not learned from: it waits for units.
    """

    def __init__(
        self, pulse: Pulse, choice: ThreadChoice, clock: Callable[[], float] = time.perf_counter,
        set_threads: Callable[[int], None] = torch.set_num_threads,
    ) -> None:  # fmt: skip
        self._pulse, self._choice, self._clock, self._set_threads = pulse, choice, clock, set_threads
        self._tokens, self._since_s, self._learning = 0, 0.0, False

    def step(self, tokens: int) -> None:
        """The layers begin to compute `tokens`."""
        self._set_threads(self._choice.choose(tokens))
        self._pulse.step(tokens)
        self._tokens, self._since_s = tokens, self._clock()

    def rest(self) -> None:
        """They are done, on a CPU: computed."""
        seconds = self._clock() - self._since_s
        self._pulse.rest()
        if self._learning:
            self._choice.learn(self._tokens, seconds)
        self._learning = True
