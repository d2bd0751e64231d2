"""A group of the world: when it is ready, and how its requests share its steps."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from schedules.estimates import Speeds, StageTimeline, first_token_s, hops_s, token_s
from schedules.facts import ModelKey, Placement
from schedules.requests import PROMPTS_ALONE, PROMPTS_BESIDE, PROMPTS_BESIDE_ON_GPU, room_tokens
from schedules.systems.system import Startup
from schedules.world.habits import Habits
from schedules.world.happenings import Happening
from schedules.world.nodes import WorldNode


@dataclass(eq=False)
class Ask:
    """A request at a group: it has `prompt_tokens`, counts on KV cache for `max_tokens` more, and is given `left` more.

    The KV cache of the first `taken` is there already. One that `follows` is generated elsewhere: it is given nothing, and
    takes in all but its last token, unless that is being copied. One that `yields` is given nothing after its step.
    Once it has `begun` it is in every step of its batch, of which the first `counted` are in `left`.
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
    begun: bool = False
    counted: int = 0
    room: int = 0
    """Its KV cache, in tokens, since its batch knows it."""

    @property
    def behind(self) -> int:
        """So many tokens it has still to take in before it can be given any, the last one aside."""
        return max(0, self.prompt_tokens - 1 - self.taken)

    def more(self, tokens: int) -> None:
        """It was given so many elsewhere."""
        self.prompt_tokens += tokens
        self.max_tokens -= tokens
        self.left -= tokens


@dataclass
class _Step:
    """So many steps of `each_s`, the first from `began_s` on, with so many `requests`. `fresh` take their prompts in,
    `followers` so many tokens."""

    began_s: float
    each_s: float
    steps: int
    requests: int
    fresh: list[Ask]
    followers: list[tuple[Ask, int]]


class Batch:
    """Continuous batching at its simplest: every step gives each request that has a room one token, or its first one after
    its whole prompt; who finds no room waits, in order of arrival, and so does whose prompt is too much beside those that
    begin with this step. Who follows has its room at once or never, and takes in what it lacks in one step with the others.

    Up to `tokens_at_once` steps in which nobody takes anything in land as one, which whoever comes meanwhile waits for. If it
    is `terse` they land as one until somebody has all of its tokens, or, as `hurry` has it, until the end of the step at
    which something changes; and of those tokens that are neither a request's first nor its last it is told when somebody
    asks. Where others on its machine slow it down from step to step it is not.
    """

    def __init__(
        self,
        kv_tokens: int,
        stages: Sequence[tuple[int, Speeds]],
        habits: Habits,
        on_gpu: bool = False,
        *,
        terse: bool = False,
    ) -> None:
        self._kv_tokens, self._stages, self._habits = kv_tokens, stages, habits
        self._prompts_beside = PROMPTS_BESIDE_ON_GPU if on_gpu else PROMPTS_BESIDE
        self.terse = terse and (habits.cores is None or on_gpu)
        self._waiting: deque[Ask] = deque()
        self._running: dict[Ask, None] = {}
        self._followers: list[Ask] = []
        self._fresh: list[Ask] = []
        self._yielding: list[Ask] = []
        self._used_tokens = self._landed = 0
        self._ends: list[tuple[int, int, Ask]] = []
        self._numbers = count()
        self._step: _Step | None = None
        self._step_s: dict[int, float] = {}
        self.under_way = False
        self.step_tokens = 0
        """Of the step that began last."""

    @property
    def in_step(self) -> int:
        """Requests that are in the step under way."""
        return 0 if self._step is None else self._step.requests

    @property
    def asks(self) -> list[Ask]:
        """Everyone who is not done."""
        return [*self._running, *self._followers, *self._waiting]

    @property
    def lets_in(self) -> bool:
        """Whether there is room for who waits first."""
        return bool(self._waiting) and self._fits(self._waiting[0])

    def ask(self, request: str) -> Ask | None:
        """Who is called so, if it is not done."""
        return next((ask for ask in self.asks if ask.request == request), None)

    def submit(self, ask: Ask) -> bool:
        """False if it will never find room."""
        fits = ask.prompt_tokens + ask.max_tokens <= self._kv_tokens
        if fits:
            ask.room = room_tokens(ask.prompt_tokens + ask.max_tokens, self._kv_tokens)
            self._waiting.append(ask)
        return fits

    def follow(self, ask: Ask) -> bool:
        """False if there is no room for it now, beside all who are here."""
        ask.room = room_tokens(ask.prompt_tokens + ask.max_tokens, self._kv_tokens)
        used = self._used_tokens + sum([other.room for other in (*self._waiting, ask)])
        fits = used <= self._kv_tokens
        if fits:
            ask.follows = True
            self._followers.append(ask)
            self._used_tokens += ask.room
        return fits

    def go_on(self, ask: Ask) -> None:
        """It follows no more: the next step takes in what it lacks and gives it the first token of its own."""
        ask.follows = ask.copying = False
        self._followers.remove(ask)
        self._running[ask] = None
        self._fresh.append(ask)

    def yield_up(self, ask: Ask) -> bool:
        """It is given nothing after the step that it is in; True if it is in none, and was given all already."""
        ask.yields = True
        if self._step is not None and ask.begun and ask in self._running:
            self._yielding.append(ask)
            return False
        self.cancel(ask.request)
        return True

    def cancel(self, request: str) -> None:
        """It is given nothing more."""
        for ask in [ask for ask in (*self._running, *self._followers) if ask.request == request]:
            self._used_tokens -= ask.room
            if ask.follows:
                self._followers.remove(ask)
            else:
                self._leave(ask)
        self._waiting = deque([ask for ask in self._waiting if ask.request != request])

    def begin(self, now_s: float) -> float | None:
        """How long the next step takes, or all of several, in seconds; None if there is nothing to do."""
        if self._waiting:
            self._let_in()
        followers = [(ask, ask.behind) for ask in self._followers if ask.behind and not ask.copying]
        self.under_way = bool(self._running or followers)
        if not self.under_way:
            return None
        fresh, self._fresh = self._fresh, []
        for ask in fresh:
            ask.begun, ask.counted = True, self._landed
            heappush(self._ends, (self._landed + ask.left, next(self._numbers), ask))
        step = self._step = _Step(now_s, self._takes_s(fresh, followers), 1, 0, fresh, followers)
        step.requests = len(self._running) + len(followers)
        if not fresh and not followers:
            step.steps = self._first_end() - self._landed
            if not self.terse:
                step.steps = min(self._habits.tokens_at_once, step.steps)
        return step.steps * step.each_s

    def hurry(self, now_s: float) -> float | None:
        """The step that it is at lands alone, then; None if it does anyway, or those that land as one are not to be told
        apart."""
        self._settle(now_s)
        step = self._step
        if not self.terse or step is None or step.steps == 1:
            return None
        step.steps = 1
        return step.began_s + step.each_s

    def untold(self, ask: Ask, now_s: float) -> int:
        """Tokens that it was given by now, and nobody was told of; they are told of with this."""
        self._settle(now_s)
        return self._count(ask) if ask.begun else 0

    def land(self) -> list[tuple[Ask, int]]:
        """The step is over: who is given how many tokens, as far as that is told; none, who follows and has taken in what it
        lacked."""
        assert self._step is not None
        step, self._step = self._step, None
        self._landed += step.steps
        told, given = self._over(), list[tuple[Ask, int]]()
        if not self.terse:
            told = [ask for ask in self._running if ask.begun]
        elif step.fresh or self._yielding:
            told = [ask for ask in dict.fromkeys([*step.fresh, *told, *self._yielding]) if ask in self._running]
        self._yielding.clear()
        for ask in told:
            given.append((ask, self._count(ask)))
            ask.prefilled = True
            if ask.left <= 0 or ask.yields:
                self._used_tokens -= ask.room
                self._leave(ask)
        for ask, tokens in step.followers:
            ask.taken += tokens
            if ask in self._followers:
                given.append((ask, 0))
        return given

    def _let_in(self) -> None:
        """Those that find a room, one of them at least whatever its prompt."""
        most, prompts = self._prompts_beside if self._running else PROMPTS_ALONE, 0
        while self.lets_in:
            prompts += self._waiting[0].prompt_tokens
            if prompts > max(most, self._waiting[0].prompt_tokens):
                break
            ask = self._waiting.popleft()
            self._running[ask] = None
            self._fresh.append(ask)
            self._used_tokens += ask.room

    def _fits(self, ask: Ask) -> bool:
        return self._used_tokens + ask.room <= self._kv_tokens

    def _leave(self, ask: Ask) -> None:
        del self._running[ask]
        if not ask.begun:
            self._fresh.remove(ask)

    def _takes_s(self, fresh: Sequence[Ask], followers: Sequence[tuple[Ask, int]]) -> float:
        """One step, in seconds."""
        tokens, habits = len(self._running) - len(fresh), self._habits
        if fresh or followers:
            tokens += sum([ask.prompt_tokens - ask.taken for ask in fresh]) + sum([behind for _, behind in followers])
        self.step_tokens = tokens
        known = self._step_s.get(tokens)
        if known is None:
            known = token_s(self._stages, habits.hop_s, tokens) + habits.step_s
            if not fresh and not followers:
                self._step_s[tokens] = known
        return known

    def _settle(self, now_s: float) -> None:
        """Of several steps that land as one those that are over have landed."""
        step = self._step
        if self.terse and step is not None and step.steps > 1:
            over = min(step.steps - 1, int((now_s - step.began_s) / step.each_s))
            self._landed += over
            step.steps -= over
            step.began_s += over * step.each_s

    def _count(self, ask: Ask) -> int:
        tokens, ask.counted = self._landed - ask.counted, self._landed
        ask.left -= tokens
        return tokens

    def _first_end(self) -> int:
        """The step after which somebody has all of its tokens."""
        while self._ends[0][2] not in self._running:
            heappop(self._ends)
        return self._ends[0][0]

    def _over(self) -> list[Ask]:
        """Those that have all of their tokens, in the order in which they came."""
        over = list[Ask]()
        while self._ends and self._ends[0][0] <= self._landed:
            ask = heappop(self._ends)[2]
            if ask in self._running:
                over.append(ask)
        return over


@dataclass(eq=False)
class WorldGroup:
    """`nodes` run its stages, `requests` are those that are at it, `waits` the loads that its first token waits for, or its
    being formed if it comes `behind`.
    It is `built` when its stages are, and `settled` a while after it `settles`, which is once it has all that it waits for.
    The slowest of its bytes were `found` in the store ("remote"), at a "peer", on "ssd" or in "dram".
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
    found: str = "dram"
    answered: bool = False
    waits: set[str] = field(default_factory=set)
    requests: dict[str, None] = field(default_factory=dict)
    landing: int = 0
    """Which of the landings that were put on the agenda is good."""
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
