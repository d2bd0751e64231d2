"""A brain against the world: what it is told and what it orders, from a log of arrivals and misfortunes.

What serving/ does for a live brain is done here by the shortest way: actions are carried out at once, in their order.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import NamedTuple, Protocol

from schedules.actions import Action, Adopt, Assign, Record, Reject, Start, Stop, WakeAt
from schedules.events import (
    Event,
    RequestArrived,
    RequestBroke,
    RequestEnded,
    RequestLeft,
    RequestProgressed,
    RequestRefused,
    StartMeasured,
    Ticked,
)
from schedules.facts import ModelKey
from schedules.simulation.groups import Ask
from schedules.simulation.habits import Misfortune
from schedules.simulation.world import World


class Decides(Protocol):
    """What a brain is to whoever owns it."""

    def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
        """What follows from what happened."""
        ...


@dataclass(frozen=True)
class Arrival:
    """A request that comes at `at_s` and is given `answer_tokens` of the `max_tokens` that it asks for, all by default. Who
    waits for it goes at `leaves_s`."""

    at_s: float
    request: str
    key: ModelKey
    prompt_tokens: int
    max_tokens: int
    answer_tokens: int | None = None
    deadline_s: float = float("inf")
    leaves_s: float = float("inf")


@dataclass(frozen=True)
class Trouble:
    """What befalls the world at `at_s`."""

    at_s: float
    what: Misfortune
    name: str = ""


@dataclass(frozen=True)
class Wish:
    """What the brain is told at `at_s` by others than the world: of a model that is published, say, or a node to drain."""

    at_s: float
    event: Event


Input = Arrival | Trouble | Wish


class Told(NamedTuple):
    """An event, when it came, and what the brain ordered."""

    now_s: float
    event: Event
    actions: tuple[Action, ...]


@dataclass
class _Open:
    """A request that is not over: how many tokens it has, and how often it was assigned. To the world each attempt is a
    request of its own."""

    arrival: Arrival
    tokens: int = 0
    attempts: int = 0

    @property
    def left(self) -> int:
        wanted = self.arrival.answer_tokens
        return (self.arrival.max_tokens if wanted is None else wanted) - self.tokens

    @property
    def attempt(self) -> str:
        return f"{self.arrival.request}.{self.attempts}"

    def ask(self) -> Ask:
        """One more attempt, with what it has."""
        self.attempts += 1
        arrival = self.arrival
        return Ask(self.attempt, arrival.prompt_tokens + self.tokens, arrival.max_tokens - self.tokens, self.left)


@dataclass
class _Run:
    """`wake_at_s` is what the brain asked for last."""

    brain: Decides
    world: World
    requests: dict[str, _Open] = field(default_factory=dict)
    wake_at_s: float = float("inf")
    told: list[Told] = field(default_factory=list)

    def feed(self, events: Iterable[Event], now_s: float) -> None:
        """The events, and then whatever follows from them at the same time."""
        queue = deque(events)
        while queue:
            event = queue.popleft()
            actions = self.brain.handle(event, now_s)
            self.told.append(Told(now_s, event, actions))
            for action in actions:
                queue.extend(self._carry_out(action, now_s))

    def hear(self, events: Iterable[Event], now_s: float) -> None:
        """The world tells them."""
        self.feed([own for event in events for own in self._own(event)], now_s)

    def leave(self, request: str, now_s: float) -> None:
        """Whoever waited for it has gone, unless it was over by then."""
        asked = self.requests.pop(request, None)
        if asked is not None:
            self.world.cancel(asked.attempt)
            self.feed((RequestLeft(request),), now_s)

    def _own(self, event: Event) -> Sequence[Event]:
        """The event with the request's own name; after its last token it has ended."""
        if isinstance(event, RequestBroke | RequestRefused):
            return (replace(event, request=event.request.rpartition(".")[0]),)
        if not isinstance(event, RequestProgressed):
            return (event,)
        name = event.request.rpartition(".")[0]
        asked = self.requests[name]
        asked.tokens += event.tokens
        own = replace(event, request=name)
        if asked.left:
            return (own,)
        del self.requests[name]
        return own, RequestEnded(name)

    def _carry_out(self, action: Action, now_s: float) -> Sequence[Event]:
        match action:
            case Start(group, key, placement, timeout_s):
                self.world.form(group, key, placement, timeout_s, now_s)
            case Stop(group):
                self.world.stop(group, now_s)
            case Adopt(group):
                self.world.adopt(group, now_s)
            case Assign(request, group):
                self.world.run(group, self.requests[request].ask(), now_s)
            case Reject(request):
                asked = self.requests.pop(request, None)
                self.world.cancel(asked.attempt if asked is not None else "")
            case Record():
                return (measured(self.world, action),)
            case WakeAt(at_s):
                self.wake_at_s = at_s
            case _:
                pass
        return ()


def measured(world: World, record: Record) -> StartMeasured:
    """What its nodes tell of a start."""
    times = world.times(record.group)
    formed_s, fetched_s, sound = 0.0, 0.0, times is not None and times.formed_s is not None
    if times is not None and times.formed_s is not None:
        formed_s = times.formed_s - times.ordered_s
    if times is not None and times.fetched_s is not None:
        since_s = times.fetched_s - record.arrived_s
        fetched_s = since_s if 0.0 <= since_s <= record.ttft_s else 0.0
    return StartMeasured(
        record.group, record.decision, record.ttft_s, record.text_s, formed_s, fetched_s, sound
    )  # fmt: skip


def simulate(brain: Decides, world: World, inputs: Iterable[Input], *, until_s: float = float("inf")) -> list[Told]:
    """All that the brain is told until `until_s`, or until all inputs have come and every request is over.

    Of what comes at one time inputs come first, in their order, then the world's own, then the brain's alarm.
    """
    run, now_s = _Run(brain, world), float("-inf")
    coming = deque(sorted(_with_leavings(inputs), key=attrgetter("at_s")))
    while coming or run.requests:
        input_s = coming[0].at_s if coming else float("inf")
        now_s = max(now_s, min(input_s, world.next_s, run.wake_at_s))
        if now_s > until_s or now_s == float("inf"):
            break
        if input_s <= now_s:
            _take(run, coming.popleft(), now_s)
        elif world.next_s <= now_s:
            run.hear(world.happen()[1], now_s)
        else:
            run.wake_at_s = float("inf")
            run.feed((Ticked(),), now_s)
    return run.told


@dataclass(frozen=True)
class _Leaving:
    at_s: float
    request: str


def _with_leavings(inputs: Iterable[Input]) -> Iterator[Input | _Leaving]:
    for each in inputs:
        yield each
        if isinstance(each, Arrival) and each.leaves_s < float("inf"):
            yield _Leaving(each.leaves_s, each.request)


def _take(run: _Run, what: Input | _Leaving, now_s: float) -> None:
    match what:
        case Arrival(at_s, request, key, prompt_tokens, max_tokens):
            run.requests[request] = _Open(what)
            run.feed((RequestArrived(request, key, prompt_tokens, max_tokens, at_s, what.deadline_s),), now_s)
        case Trouble():
            run.world.befall(what.what, what.name, now_s)
        case Wish():
            run.feed((what.event,), now_s)
        case _Leaving():
            run.leave(what.request, now_s)
