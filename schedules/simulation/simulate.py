"""A brain against the world: what it is told and what it orders, from a log of arrivals and misfortunes.

What serving/ does for a live brain is done here by the shortest way: actions are carried out at once, in their order.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import NamedTuple, Protocol

from schedules.actions import Action, Adopt, Assign, MoveAt, Record, Reject, Shift, Start, Stop, WakeAt
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
from schedules.simulation import happenings
from schedules.simulation.attempts import Open
from schedules.simulation.habits import Misfortune
from schedules.simulation.shifts import Shifts
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


@dataclass
class _Run:
    """`coming` are inputs, by time; `wake_at_s` is what the brain asked for last; `moves` are those under way."""

    brain: Decides
    world: World
    coming: deque[Input | _Leaving]
    on_told: OnTold
    requests: dict[str, Open] = field(default_factory=dict)
    moves: set[str] = field(default_factory=set)
    wake_at_s: float = float("inf")

    def __post_init__(self) -> None:
        self.shifts = Shifts(self.world)

    def feed(self, events: Iterable[Event], now_s: float) -> None:
        """The events, and then whatever follows from them at the same time; what follows from a move, at once."""
        queue = deque(events)
        while queue:
            event, at_once = queue.popleft(), list[Event]()
            actions = self.brain.handle(event, now_s)
            self.on_told(now_s, event, actions)
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
            asked, own = self.requests[name], replace(told, request=name)
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
            case Start(group, key, placement, timeout_s, behind, in_place_of):
                self.world.form(group, key, placement, timeout_s, now_s, behind=behind, in_place_of=in_place_of)
            case Stop(group):
                self.world.stop(group, now_s)
            case Adopt(group):
                self.world.adopt(group, now_s)
            case Assign(request, group):
                self.shifts.forget(request, now_s)
                self.world.run(group, self.requests[request].begin(), now_s)
            case Shift(request):
                self.shifts.begin(action, self.requests[request], now_s)
            case Reject(request) if request in self.requests:
                self._give_up(self.requests.pop(request), now_s)
            case Record():
                return (measured(self.world, action),)
            case WakeAt(at_s):
                self.wake_at_s = at_s
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
        insort(self.coming, Wish(now_s + after_s, MoveGoOn(move)), key=attrgetter("at_s"))
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
    """All that the brain is told, see `drive`."""
    told = list[Told]()
    drive(brain, world, inputs, lambda *each: told.append(Told(*each)), until_s=until_s)
    return told


def drive(
    brain: Decides, world: World, inputs: Iterable[Input], on_told: OnTold, *, until_s: float = float("inf")
) -> float:
    """The brain is told what happens until `until_s`, or until all inputs have come and every request and move is over;
    when that was.

    Of what comes at one time inputs come first, in their order, then the world's own, then the brain's alarm.
    """
    coming = deque(sorted(_with_leavings(inputs), key=attrgetter("at_s")))
    run, now_s = _Run(brain, world, coming, on_told), float("-inf")
    while coming or run.requests or run.moves:
        input_s = coming[0].at_s if coming else float("inf")
        next_s = max(now_s, min(input_s, world.next_s, run.wake_at_s))
        if next_s > until_s or next_s == float("inf"):
            break
        now_s = next_s
        if input_s <= now_s:
            _take(run, coming.popleft(), now_s)
        elif world.next_s <= now_s:
            run.hear(world.happen()[1], now_s)
        else:
            run.wake_at_s = float("inf")
            run.feed((Ticked(),), now_s)
    return now_s


def _with_leavings(inputs: Iterable[Input]) -> Iterator[Input | _Leaving]:
    for each in inputs:
        yield each
        if isinstance(each, Arrival) and each.leaves_s < float("inf"):
            yield _Leaving(each.leaves_s, each.request)


def _take(run: _Run, what: Input | _Leaving, now_s: float) -> None:
    match what:
        case Arrival(at_s, request, key, prompt_tokens, max_tokens):
            answer_tokens = max_tokens if what.answer_tokens is None else what.answer_tokens
            run.requests[request] = Open(request, prompt_tokens, max_tokens, answer_tokens)
            run.feed((RequestArrived(request, key, prompt_tokens, max_tokens, at_s, what.deadline_s),), now_s)
        case Trouble():
            run.world.befall(what.what, what.name, now_s)
        case Wish():
            run.feed((what.event,), now_s)
        case _Leaving():
            run.leave(what.request, now_s)
