"""A terse world: the same happens as token by token, and less of it is told."""

import numpy as np
import pytest

from schedules.actions import Action, Shift
from schedules.brain import Brain
from schedules.events import (
    Event,
    MoveGoOn,
    NodeLeft,
    NodeReported,
    NodesHeard,
    RequestBroke,
    RequestEnded,
    RequestProgressed,
    RequestShifted,
    Ticked,
)
from schedules.limits import SILENT_S
from schedules.simulation import play as playing
from schedules.simulation.play import play
from schedules.simulation.simulate import Arrival, Wish, simulate
from schedules.world.habits import Habits, Misfortune
from schedules.world.world import World
from tests.schedules.driven_brain import DrivenBrain, node_named
from tests.schedules.seen import MODEL, A, B, Seen
from tests.schedules.test_play import SCENARIO
from tests.schedules.test_shifts import BEGUN_S, PROMPT, TOKENS, Shifter, Story

SOON_S = 0.002
"""What whole microseconds come to in all steps of a stream."""


class Terse(Seen):
    """The same of a world that is terse."""

    def __init__(self, habits: Habits | None = None) -> None:
        self.world = World((A, B), (MODEL,), habits, terse=True)
        self.events = []

    def count(self, request: str) -> int:
        return sum(event.tokens for _, event in self.of(RequestProgressed) if event.request == request)


def test_a_stream_is_told_by_its_first_token_and_the_rest_when_they_came() -> None:
    worlds = Seen(), Terse()
    for seen in worlds:
        seen.form(A)
        seen.ask("r", 0.0, prompt=100, tokens=50)
        seen.until(10.0)
    loud, terse = (seen.of(RequestProgressed) for seen in worlds)
    assert [event.tokens for _, event in terse] == [1, 49]
    assert [at_s for at_s, _ in terse] == pytest.approx([loud[0][0], loud[-1][0]], abs=SOON_S)


def test_who_comes_meanwhile_is_in_the_next_step_and_its_prompt_holds_the_others_up() -> None:
    worlds = Seen(), Terse()
    for seen in worlds:
        seen.form(A)
        seen.ask("r", 0.0, tokens=100)
        seen.ask("s", seen.until(0.8), prompt=400, tokens=60)
        seen.ask("t", seen.until(0.9), prompt=300, tokens=1)
        seen.until(20.0)
    loud, terse = worlds
    for request in ("r", "s", "t"):
        first_s, last_s = loud.tokens(request)[0], loud.tokens(request)[-1]
        assert [terse.tokens(request)[0], terse.tokens(request)[-1]] == pytest.approx([first_s, last_s], abs=SOON_S)


def test_who_finds_no_room_comes_in_when_somebody_leaves() -> None:
    worlds = Seen(), Terse()
    for seen in worlds:
        seen.form(A)
        seen.ask("r", 0.0, prompt=500, tokens=400)
        seen.ask("s", seen.until(0.7), prompt=500, tokens=20)
        seen.world.cancel("r", seen.until(0.75))
        seen.until(20.0)
    loud, terse = worlds
    assert terse.tokens("s")[0] == pytest.approx(loud.tokens("s")[0], abs=SOON_S)
    assert terse.tokens("s")[0] < 0.8
    assert len(terse.tokens("r")) == 1


@pytest.mark.parametrize("ends", ["lost", "stopped"])
def test_what_a_request_had_is_told_before_it_breaks(ends: str) -> None:
    worlds = Seen(), Terse()
    for seen in worlds:
        seen.form(A)
        seen.ask("r", 0.0, tokens=1000)
        now_s = seen.until(3.0)
        if ends == "lost":
            seen.world.befall(Misfortune.GROUP_LOST, "g", now_s)
        else:
            seen.world.stop("g", now_s)
        seen.until(4.0)
    loud, terse = worlds
    assert 100 < len(loud.tokens("r")) < 1000
    assert terse.count("r") == pytest.approx(len(loud.tokens("r")), abs=1)
    of_request = [event for _, event in terse.events if isinstance(event, RequestProgressed | RequestBroke)]
    assert isinstance(of_request[-1], RequestBroke)


def test_a_node_that_is_silent_for_a_while_holds_its_streams_up_as_long() -> None:
    worlds = Seen(), Terse()
    for seen in worlds:
        seen.form(A)
        seen.ask("r", 0.0, tokens=100)
        seen.world.befall(Misfortune.NODE_SILENT, "a", seen.until(0.9))
        seen.world.befall(Misfortune.NODE_BACK, "a", seen.until(12.0))
        seen.until(30.0)
    loud, terse = worlds
    assert loud.tokens("r")[-1] > 12.0
    assert terse.tokens("r")[-1] == pytest.approx(loud.tokens("r")[-1], abs=SOON_S)
    assert terse.count("r") == 100


# ---- nodes


def test_of_nodes_it_is_told_what_has_changed_and_that_all_are_there() -> None:
    seen = Terse()
    seen.form(A)
    seen.world.befall(Misfortune.NODE_SILENT, "b", seen.until(10.5))
    seen.until(20.5)
    assert len(seen.of(NodeReported)) < 8
    heard = [event.silent for at_s, event in seen.of(NodesHeard)]
    assert heard == [frozenset()] * 10 + [frozenset({"b"})] * 10


def test_a_node_that_is_heard_with_all_others_does_not_fall_silent_and_one_that_is_not_does() -> None:
    driven = DrivenBrain()
    brain = driven.brain
    for name in ("a", "b"):
        brain.handle(NodeReported(node_named(name), {}), 0.0)
    for at_s in (1.0, 2.0, 3.0, 4.0):
        brain.handle(NodesHeard(), at_s)
    assert _heard(brain, 4.0 + 0.9 * SILENT_S) == {"a", "b"}
    brain.handle(NodesHeard(frozenset({"b"})), 4.0 + SILENT_S - 0.1)
    assert _heard(brain, 4.0 + SILENT_S + 0.1) == {"a"}
    brain.handle(NodesHeard(), 4.0 + SILENT_S + 0.2)
    assert _heard(brain, 4.0 + SILENT_S + 0.3) == {"a", "b"}
    brain.handle(NodeLeft("a"), 8.0)
    brain.handle(NodesHeard(), 8.1)
    assert _heard(brain, 8.2) == {"b"}


def _heard(brain: Brain, now_s: float) -> set[str]:
    brain.handle(Ticked(), now_s)
    return {node.name for node in brain._books.nodes.view().nodes}


# ---- whole runs


class Wished(Shifter):
    """Shifts the request when it is told to go on."""

    def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
        actions = tuple(action for action in super().handle(event, now_s) if not isinstance(action, Shift))
        return (Shift("r", "g", "h", self.copy),) if isinstance(event, MoveGoOn) else actions


@pytest.mark.parametrize("copy", [True, False])
def test_a_request_that_goes_on_elsewhere_has_each_token_once_and_goes_over_when_it_would(copy: bool) -> None:
    def played(*, terse: bool) -> Story:
        world = World((A, B), (MODEL,), terse=terse)
        arrival = Arrival(BEGUN_S, "r", MODEL.key, PROMPT, TOKENS)
        return Story(simulate(Wished(copy), world, [arrival, Wish(BEGUN_S + 0.3, MoveGoOn("now"))]))

    loud, terse = played(terse=False), played(terse=True)
    assert terse.whole()
    assert terse.groups() == loud.groups() == ["g", "h"]
    assert terse.when(RequestShifted) == pytest.approx(loud.when(RequestShifted), abs=0.05)
    assert terse.when(RequestEnded) == pytest.approx(loud.when(RequestEnded), abs=0.05)


def test_a_play_comes_to_the_same_as_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    terse = play(SCENARIO)
    monkeypatch.setattr(playing, "World", lambda *args, **more: World(*args, **(more | {"terse": False})))
    loud = play(SCENARIO)
    assert terse.events < loud.events / 2
    assert np.array_equal(terse.ending, loud.ending)
    assert np.array_equal(terse.cold, loud.cold)
    assert terse.ttft_s == pytest.approx(loud.ttft_s, abs=SOON_S)
    assert terse.last_s == pytest.approx(loud.last_s, abs=SOON_S)
    assert terse.cost_byte_s == pytest.approx(loud.cost_byte_s, rel=1e-3)
