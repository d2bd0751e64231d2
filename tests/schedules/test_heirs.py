"""Groups of the world that come behind another, nodes that end by themselves, and whoever carries moves out."""

from dataclasses import dataclass, field, replace

import pytest

from schedules.actions import Action, MoveAt
from schedules.events import (
    Event,
    GroupFailed,
    GroupFormed,
    GroupLost,
    GroupStopped,
    MoveGoOn,
    NodeLeft,
    NodeReported,
    RequestArrived,
    RequestProgressed,
    SchedulerJoined,
)
from schedules.facts import Node, Placement
from schedules.moving.plan import Kind, Plan, Step
from schedules.simulation.simulate import Arrival, simulate
from schedules.world.habits import Habits, Misfortune
from schedules.world.world import World
from tests.schedules.seen import Seen
from tests.schedules.worlds import MB, placed, world_model, world_node

MODEL, OTHER = world_model("m"), world_model("n")
A, B = world_node("a"), world_node("b")
SOON_S = 0.001
BOTH = (MODEL, OTHER)


def heir(
    seen: Seen, *nodes: Node, now_s: float = 0.0, placement: Placement | None = None, within_s: float = 60.0
) -> None:
    """It comes behind whatever else there is."""
    seen.world.form("heir", MODEL.key, placement or placed(MODEL, *nodes), within_s, now_s, behind=True)


def formed_s(seen: Seen, group: str) -> float:
    (at_s,) = [at_s for at_s, event in seen.of(GroupFormed) if event.group == group]
    return at_s


# ---- behind


def test_an_heir_is_formed_when_all_of_its_units_are_there() -> None:
    """Those too for which nobody would wait: 60 MB over a card of 100 MB/s, though its process is there before."""
    seen, placement = Seen(A, B), placed(MODEL, A)
    stage = replace(placement.stages[0], later=("embed",), held_back=("head",))
    heir(seen, placement=replace(placement, stages=(stage,)))
    seen.until(5.0)
    assert formed_s(seen, "heir") == pytest.approx(0.6, abs=SOON_S)
    assert set(seen.node("a").units.values()) == {"dram"}


def test_an_heir_of_which_all_is_there_is_formed_as_any_group() -> None:
    seen = Seen(A, B)
    seen.form(A)
    seen.until(2.0)
    heir(seen, A, now_s=2.0)
    seen.until(5.0)
    assert formed_s(seen, "heir") == pytest.approx(2.5, abs=SOON_S)
    seen.ask("r", 5.0, name="heir")
    seen.until(6.0)
    assert len(seen.tokens("r")) == 4


@pytest.mark.parametrize("at_s", [0.0, 0.2, 0.55])
@pytest.mark.parametrize("node", ["a", "b"])
def test_a_start_is_as_soon_there_as_without_an_heir(at_s: float, node: str) -> None:
    """On the same card, and where only the store is shared."""

    def first_token_s(with_heir: bool) -> float:
        nodes = [world_node(name, store_bytes_per_s=50.0 * MB) for name in ("a", "b")]
        seen = Seen(*nodes, models=BOTH)
        if with_heir:
            heir(seen, nodes[0])
        seen.until(at_s)
        seen.form(nodes["ab".index(node)], now_s=at_s, model=OTHER)
        seen.ask("r", at_s)
        seen.until(20.0)
        assert not with_heir or formed_s(seen, "heir") == pytest.approx(120 / 50, abs=0.01)
        return seen.tokens("r")[0]

    assert first_token_s(with_heir=True) == pytest.approx(first_token_s(with_heir=False), abs=1e-5)


def test_what_an_heir_fetches_is_fetched_at_once_for_who_waits_for_it() -> None:
    """From then on it makes way no more: who comes later stands behind it."""
    seen = Seen(A, B, models=BOTH)
    heir(seen, A)
    seen.until(0.1)
    seen.form(A, now_s=0.1, name="own")
    seen.ask("r", 0.1, name="own")
    seen.until(0.2)
    seen.form(A, now_s=0.2, model=OTHER, name="other")
    seen.until(5.0)
    assert seen.tokens("r")[0] == pytest.approx(0.606, abs=SOON_S)


def test_an_heir_that_is_not_whole_in_time_fails_and_leaves_nothing() -> None:
    seen = Seen(A, B)
    heir(seen, A, within_s=0.55)
    seen.until(5.0)
    assert not seen.of(GroupFormed)
    assert [event.group for _, event in seen.of(GroupFailed)] == ["heir"]
    assert seen.node("a").groups == ()


# ---- nodes that drain


def test_a_node_that_drains_says_so_takes_nothing_and_goes_with_the_last_of_its_groups() -> None:
    seen = Seen(A, B)
    seen.form(A)
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_DRAINING, "a", 2.0)
    seen.until(3.0)
    assert seen.node("a").draining
    assert not seen.node("b").draining
    seen.form(A, now_s=3.0, name="h")
    seen.until(4.0)
    ((_, failed),) = seen.of(GroupFailed)
    assert (failed.reason, failed.refused) == ("node a is draining and takes no stages", True)
    assert not seen.of(NodeLeft)
    seen.world.stop("g", 4.0)
    seen.until(5.0)
    assert seen.of(GroupStopped)
    assert not seen.of(GroupLost)
    assert seen.when(NodeLeft) == pytest.approx(4.02, abs=SOON_S)
    seen.world.befall(Misfortune.NODE_BACK, "a", 5.0)
    seen.until(200.0)
    assert not seen.node("a").draining
    assert len(seen.of(NodeLeft)) == 1


def test_a_node_that_drains_waits_no_longer_than_its_grace() -> None:
    seen = Seen(A, B, habits=Habits(drain_grace_s=10.0))
    seen.form(A)
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_DRAINING, "a", 2.0)
    seen.until(20.0)
    assert seen.when(NodeLeft) == pytest.approx(12.0, abs=SOON_S)
    ((_, lost),) = seen.of(GroupLost)
    assert lost == GroupLost("g", "node a has drained")


def test_a_node_that_drains_and_has_nothing_goes_at_once() -> None:
    seen = Seen(A, B)
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_DRAINING, "a", 2.0)
    seen.until(3.0)
    assert seen.when(NodeLeft) == pytest.approx(2.02, abs=SOON_S)
    draining = [at_s for at_s, event in seen.of(NodeReported) if event.node.draining]
    assert draining[0] < seen.when(NodeLeft)


def test_a_node_that_is_silent_while_it_drains_goes_when_it_is_back() -> None:
    seen = Seen(A, B, habits=Habits(drain_grace_s=10.0))
    seen.form(A)
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_DRAINING, "a", 2.0)
    seen.world.befall(Misfortune.NODE_SILENT, "a", 2.5)
    seen.until(20.0)
    assert not seen.of(NodeLeft)
    seen.world.befall(Misfortune.NODE_BACK, "a", 20.0)
    seen.until(50.0)
    assert seen.when(NodeLeft) == pytest.approx(30.0, abs=SOON_S)


# ---- whoever carries moves out


@dataclass
class Orders:
    """Orders one move at the first request, and takes its steps."""

    plan: Plan = field(default_factory=lambda: Plan("move", Kind.MIGRATE, (), "for a test"))
    went_on: list[float] = field(default_factory=list)

    def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
        match event:
            case RequestArrived():
                return (MoveAt(self.plan, Step.ORDERED),)
            case MoveGoOn("move"):
                self.went_on.append(now_s)
                return (MoveAt(self.plan, Step.READY if len(self.went_on) == 1 else Step.DONE),)
            case _:
                return ()


@pytest.mark.parametrize("after_s", [0.0, 0.05])
def test_moves_go_on_as_soon_as_whoever_carries_them_out_is_ready(after_s: float) -> None:
    brain = Orders()
    arrival = Arrival(1.0, "r", MODEL.key, 1, 1, leaves_s=1.01)
    simulate(brain, World((A, B), BOTH, Habits(carry_after_s=after_s)), [arrival])
    assert brain.went_on == [1.0 + after_s, 1.0 + 2 * after_s]


def test_moves_stand_still_if_nobody_carries_them_out() -> None:
    brain = Orders()
    arrival = Arrival(1.0, "r", MODEL.key, 1, 1, leaves_s=10.0)
    told = simulate(brain, World((A, B), BOTH, Habits(carry_after_s=None)), [arrival])
    assert brain.went_on == []
    assert told[-1].now_s == 10.0
    assert not any(isinstance(each.event, RequestProgressed | SchedulerJoined) for each in told[-1:])
