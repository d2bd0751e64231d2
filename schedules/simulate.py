"""A brain against the world: what it is told and what it orders, from a log of arrivals and misfortunes."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, Protocol

from schedules.actions import Action, Adopt, Assign, Record, Reject, Start, Stop, WakeAt
from schedules.events import (
    Event,
    RequestArrived,
    RequestEnded,
    RequestLeft,
    RequestProgressed,
    StartMeasured,
    Ticked,
)
from schedules.facts import ModelKey
from schedules.world import Misfortune, World
from schedules.world_groups import Ask


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


class Told(NamedTuple):
    """An event, when it came, and what the brain ordered."""

    now_s: float
    event: Event
    actions: tuple[Action, ...]


@dataclass
class _Open:
    """A request that is not over, and how many tokens it has."""

    arrival: Arrival
    tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        wanted = self.arrival.answer_tokens
        return self.arrival.max_tokens if wanted is None else wanted


@dataclass
class _Run:
    """`wake_at_s` is what the brain asked for last."""

    brain: Decides
    world: World
    requests: dict[str, _Open] = field(default_factory=dict)
    wake_at_s: float = float("inf")
    told: list[Told] = field(default_factory=list)

    def feed(self, event: Event, now_s: float) -> None:
        """The event, and then whatever follows from it at the same time."""
        events = deque(self._with_end(event))
        while events:
            event = events.popleft()
            actions = self.brain.handle(event, now_s)
            self.told.append(Told(now_s, event, actions))
            for action in actions:
                events.extend(self._carry_out(action, now_s))

    def leave(self, request: str, now_s: float) -> None:
        """Whoever waited for it has gone, unless it was over by then."""
        if self.requests.pop(request, None) is not None:
            self.world.cancel(request)
            self.feed(RequestLeft(request), now_s)

    def _with_end(self, event: Event) -> Sequence[Event]:
        if not isinstance(event, RequestProgressed):
            return (event,)
        asked = self.requests[event.request]
        asked.tokens += event.tokens
        if asked.tokens < asked.answer_tokens:
            return (event,)
        del self.requests[event.request]
        return event, RequestEnded(event.request)

    def _carry_out(self, action: Action, now_s: float) -> Iterable[Event]:
        match action:
            case Start(group, key, placement, timeout_s):
                self.world.form(group, key, placement, timeout_s, now_s)
            case Stop(group):
                self.world.stop(group, now_s)
            case Adopt(group):
                self.world.adopt(group, now_s)
            case Assign(request, group):
                asked = self.requests[request]
                prompt_tokens, max_tokens = asked.arrival.prompt_tokens, asked.arrival.max_tokens
                left = asked.answer_tokens - asked.tokens
                self.world.run(
                    group, Ask(request, prompt_tokens + asked.tokens, max_tokens - asked.tokens, left), now_s
                )
            case Reject(request):
                self.requests.pop(request, None)
                self.world.cancel(request)
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
    if times is None or times.formed_s is None:
        return StartMeasured(record.group, 0.0, 0.0, False)
    fetched_s = 0.0 if times.fetched_s is None else max(0.0, times.fetched_s - record.arrived_s)
    return StartMeasured(record.group, times.formed_s - times.ordered_s, fetched_s, True)


def simulate(
    brain: Decides,
    world: World,
    arrivals: Iterable[Arrival],
    troubles: Iterable[Trouble] = (),
    *,
    until_s: float = float("inf"),
) -> list[Told]:
    """All that the brain is told until `until_s`, or until every arrival and trouble has come and every request is over.

    Of what comes at one time arrivals come first, then troubles, then the world's own, then the brain's alarm.
    """
    run = _Run(brain, world)
    coming = deque(sorted(_inputs(arrivals, troubles), key=attrgetter("at_s")))
    while coming or run.requests:
        now_s = min(coming[0].at_s if coming else float("inf"), world.next_s, run.wake_at_s)
        if now_s > until_s or now_s == float("inf"):
            break
        if coming and coming[0].at_s == now_s:
            _take(run, coming.popleft())
        elif world.next_s == now_s:
            _, event = world.happen()
            if event is not None:
                run.feed(event, now_s)
        else:
            run.wake_at_s = float("inf")
            run.feed(Ticked(), now_s)
    return run.told


class _Leaving(NamedTuple):
    at_s: float
    request: str


def _inputs(arrivals: Iterable[Arrival], troubles: Iterable[Trouble]) -> Iterable[Arrival | Trouble | _Leaving]:
    arrivals = list(arrivals)
    yield from arrivals
    yield from troubles
    yield from (_Leaving(a.leaves_s, a.request) for a in arrivals if a.leaves_s < float("inf"))


def _take(run: _Run, what: Arrival | Trouble | _Leaving) -> None:
    match what:
        case Arrival():
            run.requests[what.request] = _Open(what)
            arrived = RequestArrived(
                what.request, what.key, what.prompt_tokens, what.max_tokens, what.at_s, what.deadline_s
            )
            run.feed(arrived, what.at_s)
        case Trouble():
            run.world.befall(what.what, what.name, what.at_s)
        case _Leaving():
            run.leave(what.request, what.at_s)
