"""A group of the world: when it is ready, and how its requests share its steps."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schedules.estimates import Speeds, StageTimeline, first_token_s, hops_s, token_s
from schedules.facts import ModelKey, Placement
from schedules.placing.decision import IN_DRAM
from schedules.requests import PROMPTS_ALONE, PROMPTS_BESIDE, PROMPTS_BESIDE_ON_GPU, room_tokens
from schedules.simulation.habits import Habits
from schedules.simulation.happenings import Happening
from schedules.simulation.nodes import WorldNode
from schedules.systems.system import Startup


@dataclass(eq=False)
class Ask:
    """A request at a group: it has `prompt_tokens`, counts on KV cache for `max_tokens` more, and is given `left` more.

    The KV cache of the first `taken` is there already. One that `follows` is generated elsewhere: it is given nothing, and
    takes in all but its last token, unless that is being copied. One that `yields` is given nothing after its step.
    """

    request: str
    prompt_tokens: int
    max_tokens: int
    left: int
    prefilled: bool = False
    taken: int = 0
    follows: bool = False
    copying: bool = False
    yields: bool = False
    copied_tokens: int = 0
    copied_bytes: int = 0

    def room(self, kv_tokens: int) -> int:
        """Its KV cache, in tokens, of `kv_tokens` in all."""
        return room_tokens(self.prompt_tokens + self.max_tokens, kv_tokens)

    @property
    def behind(self) -> int:
        """So many tokens it has still to take in before it can be given any, the last one aside."""
        return max(0, self.prompt_tokens - 1 - self.taken)

    def more(self, tokens: int) -> None:
        """It was given so many elsewhere."""
        self.prompt_tokens += tokens
        self.max_tokens -= tokens
        self.left -= tokens


class _Step(NamedTuple):
    """Who is in it: `asks` are given `tokens` each, `followers` take so many in."""

    asks: list[Ask]
    tokens: int
    followers: list[tuple[Ask, int]]


class Batch:
    """Continuous batching at its simplest: every step gives each request that has a room one token, or its first one after
    its whole prompt; who finds no room waits, in order of arrival, and so does whose prompt is too much beside those that
    begin with this step. Who follows has its room at once or never, and takes in what it lacks in one step with the others.

    Up to `tokens_at_once` steps in which nobody takes anything in land as one, which whoever comes meanwhile waits for.
    """

    def __init__(
        self, kv_tokens: int, stages: Sequence[tuple[int, Speeds]], habits: Habits, on_gpu: bool = False
    ) -> None:
        self._kv_tokens, self._stages, self._habits = kv_tokens, stages, habits
        self._prompts_beside = PROMPTS_BESIDE_ON_GPU if on_gpu else PROMPTS_BESIDE
        self._waiting: deque[Ask] = deque()
        self._running: list[Ask] = []
        self._followers: list[Ask] = []
        self._step: _Step | None = None
        self.under_way = False
        self.step_tokens = 0
        """Of the step that began last."""

    @property
    def in_step(self) -> int:
        """Requests that are in the step under way."""
        return 0 if self._step is None else len(self._step.asks) + len(self._step.followers)

    @property
    def asks(self) -> list[Ask]:
        """Everyone who is not done."""
        return [*self._running, *self._followers, *self._waiting]

    def ask(self, request: str) -> Ask | None:
        """Who is called so, if it is not done."""
        return next((ask for ask in self.asks if ask.request == request), None)

    def submit(self, ask: Ask) -> bool:
        """False if it will never find room."""
        fits = ask.prompt_tokens + ask.max_tokens <= self._kv_tokens
        if fits:
            self._waiting.append(ask)
        return fits

    def follow(self, ask: Ask) -> bool:
        """False if there is no room for it now, beside all who are here."""
        used = sum(other.room(self._kv_tokens) for other in (*self.asks, ask))
        fits = used <= self._kv_tokens
        if fits:
            ask.follows = True
            self._followers.append(ask)
        return fits

    def go_on(self, ask: Ask) -> None:
        """It follows no more: the next step takes in what it lacks and gives it the first token of its own."""
        ask.follows = ask.copying = False
        self._followers.remove(ask)
        self._running.append(ask)

    def yield_up(self, ask: Ask) -> bool:
        """It is given nothing after the step that it is in; True if it is in none, and was given all already."""
        ask.yields = True
        if self._step is not None and ask in self._step.asks:
            return False
        self.cancel(ask.request)
        return True

    def cancel(self, request: str) -> None:
        """It is given nothing more."""
        self._running = [ask for ask in self._running if ask.request != request]
        self._followers = [ask for ask in self._followers if ask.request != request]
        self._waiting = deque(ask for ask in self._waiting if ask.request != request)

    def begin(self) -> float | None:
        """How long the next step takes, in seconds; None if there is nothing to do."""
        if self._waiting:
            self._let_in()
        followers = [(ask, ask.behind) for ask in self._followers if ask.behind and not ask.copying]
        self.under_way = bool(self._running or followers)
        if not self.under_way:
            return None
        prompts = [ask.prompt_tokens - ask.taken for ask in self._running if not ask.prefilled]
        tokens = len(self._running) - len(prompts) + sum(prompts) + sum([behind for _, behind in followers])
        self.step_tokens = tokens
        steps = 1 if prompts or followers else min(self._habits.tokens_at_once, *[ask.left for ask in self._running])
        self._step = _Step(list(self._running), steps, followers)
        return steps * (token_s(self._stages, self._habits.hop_s, tokens) + self._habits.step_s)

    def _let_in(self) -> None:
        """Those that find a room, one of them at least whatever its prompt."""
        used = sum([ask.room(self._kv_tokens) for ask in (*self._running, *self._followers)])
        most, prompts = self._prompts_beside if self._running else PROMPTS_ALONE, 0
        while self._waiting and used + self._waiting[0].room(self._kv_tokens) <= self._kv_tokens:
            prompts += self._waiting[0].prompt_tokens
            if prompts > max(most, self._waiting[0].prompt_tokens):
                break
            self._running.append(self._waiting.popleft())
            used += self._running[-1].room(self._kv_tokens)

    def land(self) -> list[tuple[Ask, int]]:
        """The step is over: who is given how many tokens; none, who follows and has taken in what it lacked."""
        assert self._step is not None
        step, self._step = self._step, None
        given = [(ask, step.tokens) for ask in step.asks if ask in self._running]
        for ask, _ in given:
            ask.left -= step.tokens
            ask.prefilled = True
        self._running = [ask for ask in self._running if ask.left > 0 and not ask.yields]
        for ask, tokens in step.followers:
            ask.taken += tokens
        return given + [(ask, 0) for ask, _ in step.followers if ask in self._followers]


@dataclass(eq=False)
class WorldGroup:
    """`nodes` run its stages, `waits` are the loads that its first token waits for, or its being formed if it comes `behind`.
    It is `built` when its stages are, and `settled` a while after it `settles`, which is once it has all that it waits for.
    The first step of one that computes by layer began at `stepped_s` and ends some time after the last bytes of each stage
    have come, when `there_s` says by node. Seconds; None is not yet."""

    name: str
    key: ModelKey
    placement: Placement
    nodes: tuple[WorldNode, ...]
    batch: Batch
    ordered_s: float
    startup: Startup
    behind: bool = False
    stepped_s: float | None = None
    there_s: dict[str, float] = field(default_factory=dict)
    settles: bool = False
    settled: bool = False
    built: bool = False
    formed_s: float | None = None
    fetched_s: float | None = None
    whence: str = IN_DRAM
    answered: bool = False
    waits: set[str] = field(default_factory=set)
    stalled: list[Happening] = field(default_factory=list)
    """What would have happened while one of its nodes was silent."""

    @property
    def ready(self) -> bool:
        """Whether it can compute, or begin to."""
        return self.formed_s is not None and (self.startup.by_layer or self.settled)

    def ready_s(self, now_s: float) -> float:
        """When it can compute that has all that it waits for since now: its weights are over their buses by then, on which
        they began to go when they began to come, or, unless they stream, now."""
        copies_s = max(
            stage.weight_bytes / node.speeds.bus_bytes_per_s
            for stage, node in zip(self.placement.stages, self.nodes, strict=True)
        )
        begun_s = self.ordered_s
        if self.startup.serial and self.formed_s is not None:
            begun_s = self.formed_s
        if not self.startup.streams:
            begun_s = now_s
        return max(now_s, begun_s + copies_s) + self.startup.tail_s

    def first_step_s(self, hop_s: float, step_s: float) -> float:
        """When the first step ends, all being there: what came last to a stage is taken for the last of its units."""
        lines = list[StageTimeline]()
        for stage, node in zip(self.placement.stages, self.nodes, strict=True):
            last_bytes = stage.weight_bytes // len(stage.units)
            there_s = max(0.0, self.there_s.get(node.name, 0.0) - self.ordered_s)
            units = ((0.0, stage.weight_bytes - last_bytes), (there_s, last_bytes))
            lines.append(StageTimeline(node.speeds, (self.formed_s or 0.0) - self.ordered_s, units))
        computed_s = first_token_s(lines, self.batch.step_tokens) + hops_s(len(lines), hop_s) + step_s
        return self.ordered_s + computed_s + self.startup.tail_s

    @property
    def at_once(self) -> int:
        """So many steps of it are under way at once, of some of its requests each: up to one a stage."""
        return min(len(self.nodes), self.batch.in_step) if self.batch.under_way else 0

    @property
    def answers(self) -> bool:
        """Whether all of its nodes do."""
        return all(node.answers for node in self.nodes)
