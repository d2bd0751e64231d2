"""A brain against the world: what it is told and what it orders, from a log of arrivals and misfortunes.

What serving/ does for a live brain is done here by the shortest way: actions are carried out at once, in their order.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from math import inf
from operator import attrgetter
from typing import NamedTuple, Protocol

from schedules.actions import Action, Adopt, Assign, Hurry, MoveAt, Record, Reject, Shift, Start, Stop, WakeAt
from schedules.events import (
    Event,
    MoveGoOn,
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
from schedules.moving.plan import Step
from schedules.simulation.attempts import Open
from schedules.simulation.shifts import Shifts
from schedules.world import happenings
from schedules.world.habits import Misfortune
from schedules.world.world import World


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


@dataclass(frozen=True)
class Look:
    """Somebody looks at `at_s`, does to the world what he likes, and tells the brain of what comes of it. He is given the
    time that it is."""

    at_s: float
    act: Callable[[float], Iterable[Event]]


Input = Arrival | Trouble | Wish | Look


@dataclass(frozen=True)
class _Leaving:
    at_s: float
    request: str


class Told(NamedTuple):
    """An event, when it came, and what the brain ordered."""

    now_s: float
    event: Event
    actions: tuple[Action, ...]


OnTold = Callable[[float, Event, tuple[Action, ...]], object]
"""Given what a Told has."""


class _Coming:
    """Inputs, which come in the order of their times, and what they bring about later, which comes after those of its
    time."""

    def __init__(self, inputs: Iterable[Input]) -> None:
        self._inputs: Iterator[Input] = iter(inputs)
        self._first: Input | None = next(self._inputs, None)
        self._later: list[tuple[float, int, Wish | _Leaving]] = []
        self._numbers = count()

    @property
    def next_s(self) -> float:
        """When the next comes; infinite if none will."""
        first_s = inf if self._first is None else self._first.at_s
        return min(first_s, self._later[0][0]) if self._later else first_s

    def add(self, what: "Wish | _Leaving") -> None:
        """It comes at its time."""
        heappush(self._later, (what.at_s, next(self._numbers), what))

    def pop(self) -> "Input | _Leaving":
        """The next. ValueError if an input is of before one that came already."""
        first = self._first
        if first is None or (self._later and self._later[0][0] < first.at_s):
            return heappop(self._later)[2]
        self._first = next(self._inputs, None)
        if self._first is not None and self._first.at_s < first.at_s:
            raise ValueError(f"what comes at {self._first.at_s} s is told of after what comes at {first.at_s} s")
        return first


@dataclass
class _Run:
    """`wake_at_s` is what the brain asked for last; `moves` are those under way."""

    brain: Decides
    world: World
    coming: _Coming
    on_told: OnTold
    requests: dict[str, Open] = field(default_factory=dict)
    moves: set[str] = field(default_factory=set)
    wake_at_s: float = float("inf")

    def __post_init__(self) -> None:
        self.shifts = Shifts(self.world)

    def feed(self, events: Iterable[Event], now_s: float) -> None:
        """The events, and then whatever follows from them at the same time; what follows from a move, at once."""
        queue, handle, on_told = deque(events), self.brain.handle, self.on_told
        while queue:
            event = queue.popleft()
            actions = handle(event, now_s)
            on_told(now_s, event, actions)
            if not actions:
                continue
            at_once = list[Event]()
            for action in actions:
                if isinstance(action, MoveAt):
                    at_once += self._carry_move(action.plan.move, action.step, now_s)
                else:
                    queue.extend(self._carry_out(action, now_s))
            queue.extendleft(reversed(at_once))

    def hear(self, told: Iterable[happenings.Told], now_s: float) -> None:
        """The world tells it."""
        self.feed([own for each in told for own in self._own(each, now_s)], now_s)

    def leave(self, request: str, now_s: float) -> None:
        """Whoever waited for it has gone, unless it was over by then."""
        asked = self.requests.pop(request, None)
        if asked is not None:
            self._give_up(asked, now_s)
            self.feed((RequestLeft(request),), now_s)

    def _own(self, told: happenings.Told, now_s: float) -> Sequence[Event]:
        """What it is to the brain, with the request's own name; after its last token it has ended."""
        if isinstance(told, RequestProgressed):
            name = told.request.rpartition(".")[0]
            asked, own = self.requests[name], RequestProgressed(name, told.group, told.tokens)
            asked.tokens += told.tokens
            if asked.left:
                return (own,)
            del self.requests[name]
            self.shifts.forget(name, now_s)
            return own, RequestEnded(name)
        if not isinstance(told, happenings.OfAttempt):
            return (told,)
        of_shifts = self.shifts.hear(told, now_s)
        if of_shifts is not None:
            return of_shifts
        assert isinstance(told, RequestBroke | RequestRefused)
        name = told.request.rpartition(".")[0]
        if name in self.requests and self.requests[name].attempt == told.request:
            self.shifts.forget(name, now_s)
        return (replace(told, request=name),)

    def _give_up(self, asked: Open, now_s: float) -> None:
        self.shifts.forget(asked.name, now_s)
        self.world.cancel(asked.attempt, now_s)

    def _carry_out(self, action: Action, now_s: float) -> Sequence[Event]:
        match action:
            case Assign(request, group):
                self.shifts.forget(request, now_s)
                self.world.run(group, self.requests[request].begin(), now_s)
            case WakeAt(at_s):
                self.wake_at_s = at_s
            case Start(group, key, placement, timeout_s, behind, in_place_of):
                self.world.form(group, key, placement, timeout_s, now_s, behind=behind, in_place_of=in_place_of)
            case Hurry(group, _):
                self.world.hurry(group, now_s)
            case Stop(group):
                self.world.stop(group, now_s)
            case Adopt(group):
                self.world.adopt(group, now_s)
            case Shift(request):
                asked = self.requests[request]
                told = self.shifts.hear_of(asked, now_s)
                self.shifts.begin(action, asked, now_s)
                return told
            case Reject(request) if request in self.requests:
                self._give_up(self.requests.pop(request), now_s)
            case Record():
                return (measured(self.world, action),)
            case _:
                pass
        return ()

    def _carry_move(self, move: str, step: Step, now_s: float) -> Sequence[Event]:
        """Whoever carries it out is ready a while after it is asked to be, or at once."""
        after_s = self.world.habits.carry_after_s
        if after_s is None:
            return ()
        if step in (Step.DONE, Step.GIVEN_UP):
            self.moves.discard(move)
        else:
            self.moves.add(move)
        if step not in (Step.ORDERED, Step.READY):
            return ()
        if after_s == 0.0:
            return (MoveGoOn(move),)
        self.coming.add(Wish(now_s + after_s, MoveGoOn(move)))
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
    """All that the brain is told of inputs in any order, see `drive`."""
    told = list[Told]()
    drive(brain, world, sorted(inputs, key=attrgetter("at_s")), lambda *each: told.append(Told(*each)), until_s=until_s)
    return told


def drive(
    brain: Decides, world: World, inputs: Iterable[Input], on_told: OnTold, *, until_s: float = float("inf")
) -> float:
    """The brain is told what happens until `until_s`, or until all inputs, which are in the order of their times, have come
    and every request and move is over; when that was.

    Of what comes at one time inputs come first, in their order, then the world's own, then the brain's alarm.
    """
    coming = _Coming(inputs)
    run, now_s = _Run(brain, world, coming, on_told), -inf
    while (input_s := coming.next_s) < inf or run.requests or run.moves:
        world_s = world.next_s
        next_s = max(now_s, min(input_s, world_s, run.wake_at_s))
        if next_s > until_s or next_s == inf:
            break
        now_s = next_s
        if input_s <= now_s:
            _take(run, coming.pop(), now_s)
        elif world_s <= now_s:
            told = world.happen()[1]
            if told:
                run.hear(told, now_s)
        else:
            run.wake_at_s = inf
            run.feed((Ticked(),), now_s)
    return now_s


def _take(run: _Run, what: Input | _Leaving, now_s: float) -> None:
    match what:
        case Arrival(at_s, request, key, prompt_tokens, max_tokens):
            answer_tokens = max_tokens if what.answer_tokens is None else what.answer_tokens
            run.requests[request] = Open(request, prompt_tokens, max_tokens, answer_tokens)
            if what.leaves_s < inf:
                run.coming.add(_Leaving(what.leaves_s, request))
            run.feed((RequestArrived(request, key, prompt_tokens, max_tokens, at_s, what.deadline_s),), now_s)
        case Trouble():
            run.world.befall(what.what, what.name, now_s)
        case Wish():
            run.feed((what.event,), now_s)
        case Look():
            run.feed(what.act(now_s), now_s)
        case _Leaving():
            run.leave(what.request, now_s)
