"""A group of the world: when it is ready, and how its requests share its steps."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from schedules.estimates import Speeds, token_s
from schedules.events import Event
from schedules.facts import ModelKey, Placement
from schedules.requests import room_tokens
from schedules.simulation.nodes import WorldNode

Happening = Callable[[float], Sequence[Event]]
"""Given the time that it is by then, in seconds, it does its part, and says what is to be told of it, in order."""


@dataclass(eq=False)
class Ask:
    """A request at a group: it has `prompt_tokens`, counts on KV cache for `max_tokens` more, and is given `left` more."""

    request: str
    prompt_tokens: int
    max_tokens: int
    left: int
    prefilled: bool = False

    def room(self, kv_tokens: int) -> int:
        """Its KV cache, in tokens, of `kv_tokens` in all."""
        return room_tokens(self.prompt_tokens + self.max_tokens, kv_tokens)


class Batch:
    """Continuous batching at its simplest: every step gives each request that has a room one token, or its first one after
    its whole prompt; who finds no room waits, in order of arrival.

    Up to `at_once` steps in which nobody joins land as one, which whoever comes meanwhile waits for.
    """

    def __init__(self, kv_tokens: int, stages: Sequence[tuple[int, Speeds]], hop_s: float, at_once: int) -> None:
        self._kv_tokens, self._stages, self._hop_s, self._at_once = kv_tokens, stages, hop_s, at_once
        self._waiting: deque[Ask] = deque()
        self._running: list[Ask] = []
        self._step: tuple[list[Ask], int] | None = None
        self.under_way = False

    @property
    def asks(self) -> list[Ask]:
        """Everyone who is not done."""
        return [*self._running, *self._waiting]

    def submit(self, ask: Ask) -> bool:
        """False if it will never find room."""
        fits = ask.prompt_tokens + ask.max_tokens <= self._kv_tokens
        if fits:
            self._waiting.append(ask)
        return fits

    def cancel(self, request: str) -> None:
        """It is given nothing more."""
        self._running = [ask for ask in self._running if ask.request != request]
        self._waiting = deque(ask for ask in self._waiting if ask.request != request)

    def begin(self) -> float | None:
        """How long the next step takes, in seconds; None if there is nothing to do."""
        used = sum(ask.room(self._kv_tokens) for ask in self._running)
        while self._waiting and used + self._waiting[0].room(self._kv_tokens) <= self._kv_tokens:
            self._running.append(self._waiting.popleft())
            used += self._running[-1].room(self._kv_tokens)
        self.under_way = bool(self._running)
        if not self._running:
            return None
        tokens = sum(1 if ask.prefilled else ask.prompt_tokens for ask in self._running)
        joins = any(not ask.prefilled for ask in self._running)
        steps = 1 if joins else min(self._at_once, *(ask.left for ask in self._running))
        self._step = list(self._running), steps
        return steps * token_s(self._stages, self._hop_s, tokens)

    def land(self) -> list[tuple[Ask, int]]:
        """The step is over: who is given how many tokens."""
        assert self._step is not None
        (asks, steps), self._step = self._step, None
        given = [(ask, steps) for ask in asks if ask in self._running]
        for ask, _ in given:
            ask.left -= steps
            ask.prefilled = True
        self._running = [ask for ask in self._running if ask.left > 0]
        return given


@dataclass(eq=False)
class WorldGroup:
    """`nodes` run its stages, `waits` are the loads that its first token waits for. Seconds; None is not yet."""

    name: str
    key: ModelKey
    placement: Placement
    nodes: tuple[WorldNode, ...]
    batch: Batch
    ordered_s: float
    formed_s: float | None = None
    fetched_s: float | None = None
    answered: bool = False
    waits: set[str] = field(default_factory=set)
    stalled: list[Happening] = field(default_factory=list)
    """What would have happened while one of its nodes was silent."""

    @property
    def ready(self) -> bool:
        return self.formed_s is not None and not self.waits

    @property
    def answers(self) -> bool:
        """Whether all of its nodes do."""
        return all(node.answers for node in self.nodes)
