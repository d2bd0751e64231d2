"""A model as the router serves it: its replicas, and who waits for one."""

import asyncio
from dataclasses import dataclass, field

from cluster.group import Group
from cluster.wire.phases import Phase
from schedules.lifecycle import Replica, State
from schedules.objectives import Objectives
from schedules.placing.decision import Decision, Running
from serving.catalog import ServedModel


@dataclass(eq=False)
class Start:
    """A cold start. `arrived_s` (monotonic seconds) is when the request came that it is for, None if it is for none;
    `hop_s` is what the decision took a hop for, `text_s` how long after its arrival the request's tokens were known, if
    not before."""

    name: str
    arrived_s: float | None
    phases: list[Phase] = field(default_factory=list)
    decision: Decision | None = None
    hop_s: float = 0.0
    text_s: float = 0.0
    told: bool = False


@dataclass(eq=False)
class Waiter:
    """A request that is held until a replica can take it; `tokens` count its prompt and the most it may be answered,
    `arrived_s` is in monotonic seconds.

    One that is `announced` is yet to come: its prompt is being made into tokens.
    """

    ready: "asyncio.Future[Live]"
    arrived_s: float
    prompt_tokens: int
    tokens: int
    announced: bool = False


@dataclass(eq=False)
class Live:
    """A replica: its state, its group once it has one, and what it is at. Tokens count prompts and answers."""

    replica: Replica
    group: Group | None = None
    start: Start | None = None
    active: int = 0
    tokens: int = 0
    idle_since_s: float | None = None
    idle_timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> State:
        return self.replica.state

    def take(self, tokens: int) -> None:
        """It gets a request of so many tokens."""
        self.active += 1
        self.tokens += tokens
        self.wake()

    def rest(self, now_s: float, timer: asyncio.TimerHandle) -> None:
        """It has no request; `timer` ends it."""
        self.wake()
        self.idle_since_s, self.idle_timer = now_s, timer

    def wake(self) -> None:
        """It has a request, or is at its end: no timer will end it."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        self.idle_since_s, self.idle_timer = None, None


@dataclass(eq=False)
class Service:
    """The replicas of one version of a model; `last_start_s` is what a start took last."""

    model: ServedModel
    objectives: Objectives
    replicas: list[Live] = field(default_factory=list)
    held: list[Waiter] = field(default_factory=list)
    last_start_s: float = 5.0

    def in_state(self, *states: State) -> list[Live]:
        return [live for live in self.replicas if live.state in states]

    @property
    def serving(self) -> Live | None:
        """The replica that the next request should get: the one with least to do."""
        able = self.in_state(State.SERVING)
        return min(able, key=lambda live: (live.tokens, live.active), default=None)

    def taker(self, tokens: int) -> Live | None:
        """The replica that should get a request of so many tokens now. None if it should wait for one that starts,
        because there is no other or no other has so much KV cache left."""
        live = self.serving
        starting = any(other.state is State.STARTING for other in self.coming)
        full = live is not None and live.tokens + tokens > self.objectives.kv_tokens
        return None if starting and full else live

    @property
    def coming(self) -> list[Live]:
        """The replicas that serve or will."""
        return self.in_state(State.STARTING, State.SERVING)

    @property
    def outstanding_tokens(self) -> int:
        """Tokens that are asked for and not yet answered, at most."""
        return sum(live.tokens for live in self.coming) + sum(waiter.tokens for waiter in self.held)

    def running(self) -> list[Running]:
        """Its replicas that are up, as decisions see them."""
        return [
            Running(
                self.model.facts,
                live.group.name,
                {stage.node: stage.reserve_bytes for stage in live.group.placement.stages},
                live.idle_since_s,
                live.tokens,
                self.objectives.priority,
            )
            for live in self.in_state(State.SERVING)
            if live.group is not None
        ]
