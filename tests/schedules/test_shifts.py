"""Requests that go on elsewhere in the world: what it takes, and every way out of it; each token comes once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from schedules.actions import Action, Assign, Shift, Start, Stop, WakeAt
from schedules.events import (
    Event,
    RequestArrived,
    RequestBroke,
    RequestEnded,
    RequestProgressed,
    RequestShifted,
    RequestStayed,
    SchedulerJoined,
    Ticked,
)
from schedules.facts import Node
from schedules.moving.rounds import ROUNDS
from schedules.simulation.simulate import Arrival, Input, Told, Trouble, simulate
from schedules.world.habits import Habits, Misfortune
from schedules.world.world import World
from tests.schedules.worlds import KV_TOKENS, MB, placed, world_model, world_node

MODEL = replace(world_model("m"), kv_bytes_per_token=100_000)
A, B = world_node("a"), world_node("b")
STEP_S = 60 * MB / 1e10
PROMPT, TOKENS, SHIFTED_AT = 300, 200, 50
COPY_S = (PROMPT + SHIFTED_AT - 1) * 100_000 / (100 * MB)
BEGUN_S = 2.0


@dataclass
class Shifter:
    """Runs every request at g, and has it shifted to `to` when it has SHIFTED_AT tokens; what breaks begins anew where the
    other of g and h is. `others` are started at BEGUN_S, and are none of its requests' business."""

    copy: bool
    nodes: Sequence[Node] = (A, B)
    to: str = "h"
    kv_tokens: int = KV_TOKENS
    tokens: Counter[str] = field(default_factory=Counter)
    shifted: set[str] = field(default_factory=set)

    def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
        match event:
            case SchedulerJoined():
                return tuple(
                    Start(group, MODEL.key, placed(MODEL, node, kv_tokens=self.kv_tokens), 60.0)
                    for group, node in zip(("g", "h"), self.nodes, strict=True)
                )
            case RequestArrived(request):
                return (Assign(request, "h" if request.startswith("other") else "g", False),)
            case RequestProgressed(request, "g", tokens):
                self.tokens[request] += tokens
                if self.tokens[request] >= SHIFTED_AT and request not in self.shifted:
                    self.shifted.add(request)
                    return (Shift(request, "g", self.to, self.copy),)
            case RequestBroke(request, group):
                return (Assign(request, "h" if group == "g" else "g", False),)
            case _:
                pass
        return ()


@dataclass
class Story:
    """What was told in it."""

    told: list[Told]
    wanted: int = TOKENS

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [each.event for each in self.told if isinstance(each.event, kinds)]

    def when(self, kind: type[Event]) -> float:
        (at_s,) = [each.now_s for each in self.told if isinstance(each.event, kind)]
        return at_s

    @property
    def ordered_s(self) -> float:
        """When the first shift was."""
        return next(each.now_s for each in self.told if any(isinstance(action, Shift) for action in each.actions))

    def tokens(self, request: str = "r") -> list[tuple[float, str, int]]:
        """When they came, whence, and how many."""
        return [
            (each.now_s, each.event.group, each.event.tokens)
            for each in self.told
            if isinstance(each.event, RequestProgressed) and each.event.request == request
        ]

    def groups(self, request: str = "r") -> list[str]:
        """Where its tokens came from, one after the other."""
        came = [group for _, group, _ in self.tokens(request)]
        return [group for index, group in enumerate(came) if index == 0 or came[index - 1] != group]

    def whole(self, request: str = "r") -> bool:
        """Whether it had each of its tokens once, and ended."""
        ended = [event for event in self.of(RequestEnded) if event == RequestEnded(request)]
        return len(ended) == 1 and sum(tokens for _, _, tokens in self.tokens(request)) == self.wanted


def story(
    brain: Shifter,
    *inputs: Input,
    requests: Iterable[str] = ("r",),
    habits: Habits | None = None,
    prompt: int = PROMPT,
    tokens: int = TOKENS,
) -> Story:
    arrivals = [Arrival(BEGUN_S, request, MODEL.key, prompt, tokens) for request in requests]
    return Story(simulate(brain, World(brain.nodes, (MODEL,), habits), [*arrivals, *inputs]), tokens)


# ---- what it takes


@pytest.mark.parametrize("copy", [True, False])
def test_a_request_goes_on_with_the_next_token_after_one_step_of_both(copy: bool) -> None:
    played = story(Shifter(copy))
    assert played.whole()
    assert played.groups() == ["g", "h"]
    assert played.of(RequestShifted, RequestStayed) == [RequestShifted("r", "g", "h")]
    last_s = max(at_s for at_s, group, _ in played.tokens() if group == "g")
    first_s = min(at_s for at_s, group, _ in played.tokens() if group == "h")
    assert last_s < played.when(RequestShifted) < first_s
    assert first_s - last_s == pytest.approx(STEP_S, abs=1e-4)


def test_a_copy_takes_as_long_as_its_bytes_and_the_rounds_behind_it() -> None:
    played = story(Shifter(copy=True))
    assert played.when(RequestShifted) - played.ordered_s == pytest.approx(COPY_S, abs=4 * STEP_S)


def test_a_copy_shares_the_card_with_a_start() -> None:
    """The start's 60 MB come over the card in which the copy's 35 MB do: each has half of it."""
    brain = Shifter(copy=True)
    start = Start("o", world_model("o").key, placed(world_model("o"), B), 60.0)
    alone = story(brain)

    class Busy(Shifter):
        def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
            actions = super().handle(event, now_s)
            return (*actions, start) if any(isinstance(action, Shift) for action in actions) else actions

    world = World((A, B), (MODEL, world_model("o")))
    busy = Story(simulate(Busy(copy=True), world, [Arrival(BEGUN_S, "r", MODEL.key, PROMPT, TOKENS)]))
    took_s, alone_s = (each.when(RequestShifted) - each.ordered_s for each in (busy, alone))
    assert took_s - alone_s == pytest.approx(COPY_S, abs=4 * STEP_S)


def test_what_is_not_copied_is_computed_in_the_steps_of_others() -> None:
    """At a tenth of a second for the prompt; who runs there waits as long for a token, once."""
    slow = world_node("b", prefill=2e11)
    other = Arrival(BEGUN_S, "other", MODEL.key, 1, TOKENS)
    played = story(Shifter(copy=False, nodes=(A, slow)), other)
    assert played.whole()
    assert played.whole("other")
    prefill_s = 60 * MB * (PROMPT + SHIFTED_AT) / 2e11
    came = [at_s for at_s, _, _ in played.tokens("other")]
    waits = sorted(after - before for before, after in pairwise(came))
    assert waits[-1] == pytest.approx(prefill_s, rel=0.05)
    assert waits[-4] < prefill_s / 4
    assert played.when(RequestShifted) - played.ordered_s > prefill_s


def test_a_gap_that_never_closes_leaves_the_request_where_it_is() -> None:
    """Each round takes two seconds, in which more tokens come than are given there in one."""
    slow = (world_node("a", decode=1e9), world_node("b", decode=3e7))
    played = story(Shifter(copy=False, nodes=slow), prompt=100, tokens=900)
    assert played.groups() == ["g"]
    assert played.whole()
    (stayed,) = played.of(RequestShifted, RequestStayed)
    assert isinstance(stayed, RequestStayed)
    assert f"after {ROUNDS} rounds, the last of which took 2.0 s" in stayed.reason


def test_a_gap_that_does_not_close_is_small_enough_if_it_is_soon_computed() -> None:
    slow = (world_node("a", decode=1e9), world_node("b", decode=8e7))
    played = story(Shifter(copy=False, nodes=slow), prompt=100)
    assert played.groups() == ["g", "h"]
    assert played.whole()
    assert played.when(RequestShifted) - played.ordered_s == pytest.approx(2 * 0.75, abs=0.2)


def test_ten_go_over_at_once() -> None:
    names = [f"r{index}" for index in range(10)]
    played = story(Shifter(copy=True, kv_tokens=2560), requests=names, prompt=20)
    assert all(played.whole(name) for name in names)
    assert {name: played.groups(name) for name in names} == {name: ["g", "h"] for name in names}


# ---- it stays


@pytest.mark.parametrize("copy", [True, False])
def test_without_room_there_it_stays(copy: bool) -> None:
    played = story(Shifter(copy), Arrival(BEGUN_S, "other", MODEL.key, 400, TOKENS), prompt=400)
    (stayed,) = played.of(RequestShifted, RequestStayed)
    assert stayed == RequestStayed("r", "g", "h", "it has no room for 600 tokens now")
    assert played.groups() == ["g"]
    assert played.whole()
    assert played.whole("other")


def test_it_stays_if_there_is_no_such_group() -> None:
    played = story(Shifter(copy=True, to="nowhere"))
    (stayed,) = played.of(RequestShifted, RequestStayed)
    assert stayed == RequestStayed("r", "g", "nowhere", "the group is not there any more")
    assert played.whole()


@dataclass(frozen=True)
class Phase:
    """Of a shift: how one comes to be in the middle of it."""

    copy: bool
    nodes: tuple[Node, ...] = (A, B)
    habits: Habits | None = None

    @property
    def brain(self) -> Shifter:
        return Shifter(self.copy, self.nodes)

    def middle_s(self, prompt: int = PROMPT) -> float:
        """Half way between the order and the switch, if nothing befalls."""
        alone = story(self.brain, habits=self.habits, prompt=prompt)
        return (alone.ordered_s + alone.when(RequestShifted)) / 2


PHASES = {
    "copied": Phase(copy=True),
    "taken in": Phase(copy=False, nodes=(A, world_node("b", prefill=6e10))),
    "given up": Phase(copy=False, habits=Habits(tokens_at_once=64)),
}
"""To be computed anew takes a third of a second in one, a fiftieth in the other, where the last step takes a third."""
_phases = pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
_losses = pytest.mark.parametrize("what", [Misfortune.GROUP_LOST, Misfortune.NODE_LOST])


def lost(what: Misfortune, group: str, at_s: float) -> Trouble:
    """The group, or the node that it is on."""
    return Trouble(at_s, what, group if what is Misfortune.GROUP_LOST else {"g": "a", "h": "b"}[group])


@_phases
@_losses
def test_whoever_shall_take_it_may_be_lost_before_the_switch(phase: Phase, what: Misfortune) -> None:
    """One that was given up already begins again where it was, as soon as it has ended there."""
    at_s = phase.middle_s()
    played = story(phase.brain, lost(what, "h", at_s), habits=phase.habits)
    (stayed,) = played.of(RequestShifted, RequestStayed, RequestBroke)
    assert isinstance(stayed, RequestStayed)
    assert (played.when(RequestStayed) - at_s > 0.1) is (phase is PHASES["given up"])
    assert played.groups() == ["g"]
    assert played.whole()


@_phases
@_losses
def test_where_it_is_may_be_lost_before_the_switch(phase: Phase, what: Misfortune) -> None:
    """Nothing is told of the shift any more, and the room that it had is free: there is room for one only."""
    played = story(phase.brain, lost(what, "g", phase.middle_s(600)), habits=phase.habits, prompt=600)
    (broke,) = played.of(RequestShifted, RequestStayed, RequestBroke)
    assert isinstance(broke, RequestBroke)
    assert broke.group == "g"
    assert played.groups() == ["g", "h"]
    assert played.whole()


def test_after_the_switch_it_breaks_where_it_is() -> None:
    at_s = story(Shifter(copy=True)).when(RequestShifted) + 10 * STEP_S
    played = story(Shifter(copy=True), lost(Misfortune.GROUP_LOST, "h", at_s))
    told = played.of(RequestShifted, RequestStayed, RequestBroke)
    assert [type(event) for event in told] == [RequestShifted, RequestBroke]
    assert played.groups() == ["g", "h", "g"]
    assert played.whole()


@_phases
@pytest.mark.parametrize("how", ["ends", "leaves"])
def test_a_request_may_be_over_before_the_switch(phase: Phase, how: str) -> None:
    """The room that it had there is free at once."""
    at_s = phase.middle_s()
    arrival = Arrival(BEGUN_S, "r", MODEL.key, PROMPT, TOKENS)
    arrival = replace(arrival, answer_tokens=70) if how == "ends" else replace(arrival, leaves_s=at_s)
    next_one = Arrival(at_s + 1.0, "other", MODEL.key, 700, TOKENS)
    played = Story(simulate(phase.brain, World(phase.nodes, (MODEL,), phase.habits), [arrival, next_one]))
    assert not played.of(RequestShifted, RequestStayed)
    assert played.groups() == ["g"]
    assert played.whole("other")


def test_who_is_assigned_anew_is_followed_no_more() -> None:
    """Before the brain hears what it has done: there is room for one only, which the new attempt has."""

    class Hasty(Shifter):
        def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
            if isinstance(event, Ticked):
                return (Assign("r", "h", cold=False), Stop("g"))
            actions = () if isinstance(event, RequestBroke) else super().handle(event, now_s)
            wake = [WakeAt(now_s + COPY_S / 2) for action in actions if isinstance(action, Shift)]
            return (*actions, *wake)

    arrival = Arrival(BEGUN_S, "r", MODEL.key, 600, TOKENS)
    played = Story(simulate(Hasty(copy=True), World((A, B), (MODEL,)), [arrival], until_s=60.0))
    assert [type(event) for event in played.of(RequestShifted, RequestStayed, RequestBroke)] == [RequestBroke]
    assert played.groups() == ["g", "h"]
    assert played.whole()
