"""The world: it does what it is told at its nodes' speeds, and what befalls it has the consequences that it has."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from schedules.events import (
    GroupFailed,
    GroupFormed,
    GroupFound,
    GroupLost,
    GroupStopped,
    NodeLeft,
    NodeReported,
    RequestArrived,
    RequestBroke,
    RequestEnded,
    RequestLeft,
    RequestProgressed,
    RequestRefused,
    SchedulerJoined,
    SchedulerLost,
    StartMeasured,
)
from schedules.facts import Model
from schedules.simulation.simulate import Arrival, Told, Trouble, simulate
from schedules.world.habits import Habits, Misfortune
from schedules.world.world import World
from tests.schedules.models import node_of
from tests.schedules.seen import Seen
from tests.schedules.worlds import MB, SimpleBrain, placed, world_model, world_node

MODEL = world_model("m")
A, B = world_node("a"), world_node("b")
SOON_S = 0.001


def test_a_start_takes_as_long_as_forming_and_its_bytes_do() -> None:
    """Six units of 10 MB over a card of 100 MB/s."""
    seen = Seen()
    seen.form(A)
    seen.until(0.1)
    seen.ask("r", 0.1)
    seen.until(5.0)
    assert seen.when(GroupFormed) == pytest.approx(0.5, abs=SOON_S)
    assert seen.tokens("r")[0] == pytest.approx(0.6 + 60 * MB / 1e10, abs=SOON_S)
    assert [b - a for a, b in zip(seen.tokens("r"), seen.tokens("r")[1:], strict=False)] == pytest.approx(
        [60 * MB / 1e10] * 3, abs=SOON_S
    )
    times = seen.world.times("g")
    assert times is not None
    assert times.fetched_s == pytest.approx(0.6, abs=SOON_S)


def test_a_pipeline_fetches_its_parts_at_once_and_its_tokens_go_round() -> None:
    seen = Seen()
    seen.form(A, B)
    seen.ask("r", 0.0)
    seen.until(5.0)
    assert seen.when(GroupFormed) == pytest.approx(0.6, abs=SOON_S)
    times = seen.world.times("g")
    assert times is not None
    assert times.fetched_s == pytest.approx(0.3, abs=SOON_S)
    token_s = 60 * MB / 1e10 + 2 * Habits().hop_s
    assert seen.tokens("r")[0] == pytest.approx(0.6 + token_s, abs=SOON_S)


def test_a_store_that_limits_is_shared_by_all_who_fetch() -> None:
    slow = [world_node(name, store_bytes_per_s=50.0 * MB) for name in ("a", "b")]
    seen = Seen(*slow, models=(MODEL, world_model("n")))
    seen.form(slow[0], name="g")
    seen.form(slow[1], name="h", model=world_model("n"))
    seen.until(10.0)
    for group in ("g", "h"):
        times = seen.world.times(group)
        assert times is not None
        assert times.fetched_s == pytest.approx(120 / 50, abs=SOON_S)


def test_what_a_node_has_is_not_fetched_again_and_what_another_has_comes_from_there() -> None:
    """The second start on a node waits for forming alone; on the other node its card is the limit, not the store."""
    nodes = [world_node(name, store_bytes_per_s=10.0 * MB) for name in ("a", "b")]
    seen = Seen(*nodes)
    seen.form(nodes[0])
    seen.until(10.0)
    seen.world.stop("g", 10.0)
    now_s = seen.until(11.0)
    seen.form(seen.node("a"), now_s=now_s, name="again")
    seen.form(seen.node("b"), now_s=now_s, name="other", peer="a")
    seen.ask("r", now_s, name="again")
    seen.until(20.0)
    assert seen.tokens("r")[0] == pytest.approx(11.5 + 0.006, abs=SOON_S)
    again, other = seen.world.times("again"), seen.world.times("other")
    assert again is not None
    assert again.fetched_s is None
    assert other is not None
    assert other.fetched_s == pytest.approx(11.6, abs=SOON_S)


def test_what_is_held_back_comes_after_the_first_answer_and_nobody_waits_for_it() -> None:
    """The first stage of two keeps its embedding for later: 20 MB are waited for, the last 10 MB come behind them."""
    seen, placement = Seen(), placed(MODEL, A, B)
    first = placement.stages[0]
    behind = replace(first, later=("embed",), held_back=("embed",))
    seen.world.form("g", MODEL.key, replace(placement, stages=(behind, placement.stages[1])), 60.0, 0.0)
    seen.until(2.0)
    assert MODEL.units[0].digest not in seen.node(first.node).units
    seen.ask("r", 2.0, tokens=200)
    seen.until(2.05)
    assert seen.tokens("r")
    seen.until(3.0)
    assert seen.node(first.node).units[MODEL.units[0].digest] == "dram"


def test_dram_that_is_full_makes_room_to_the_ssd_and_that_is_told() -> None:
    """The second model pushes the first one out of dram; then that is read from the ssd, at its speed."""
    small = replace(world_node("a"), dram_bytes=60 * MB)
    other = world_model("n")
    seen = Seen(small, models=(MODEL, other))
    seen.form(small)
    seen.until(2.0)
    seen.world.stop("g", 2.0)
    seen.until(3.0)
    seen.form(small, now_s=3.0, name="h", model=other)
    seen.until(5.0)
    assert set(seen.node("a").units.items()) == {
        *((unit.digest, "ssd") for unit in MODEL.units),
        *((unit.digest, "dram") for unit in other.units),
    }
    moved = [event.gained for _, event in seen.of(NodeReported) if "ssd" in event.gained.values()]
    assert moved == [{unit.digest: "ssd" for unit in MODEL.units} | {unit.digest: "dram" for unit in other.units}]
    seen.form(small, now_s=5.0, name="i")
    seen.until(9.0)
    times = seen.world.times("i")
    assert times is not None
    assert times.fetched_s == pytest.approx(5.3, abs=SOON_S)


def test_memory_that_is_reserved_is_reserved_for_one() -> None:
    """Six replicas fit; the seventh is refused, and the node reports why."""
    seen = Seen(A)
    for index in range(7):
        seen.form(A, name=f"g{index}")
    seen.until(0.5)
    failed = [event for _, event in seen.of(GroupFailed)]
    assert [(event.group, event.refused) for event in failed] == [("g6", True)]
    seen.until(1.0)
    assert seen.node("a").groups == tuple(f"g{index}" for index in range(6))
    assert seen.node("a").device_free_bytes < placed(MODEL, A).stages[0].reserve_bytes


def test_rooms_are_given_in_order_of_arrival() -> None:
    """Two rooms of 512 tokens are all there is: the third waits for one of them, and a small one that comes after it too."""
    seen = Seen()
    seen.form(A)
    seen.until(2.0)
    for name in ("r1", "r2", "r3"):
        seen.ask(name, 2.0, prompt=500, tokens=12)
    seen.ask("small", 2.0, prompt=1, tokens=1)
    seen.until(4.0)
    first_over = min(seen.tokens("r1")[-1], seen.tokens("r2")[-1])
    assert first_over < seen.tokens("r3")[0]
    assert first_over < seen.tokens("small")[0]
    assert seen.tokens("r3")[-1] == max(at_s for at_s, _ in seen.of(RequestProgressed))


def test_what_will_never_find_room_is_refused() -> None:
    seen = Seen()
    seen.form(A)
    seen.ask("r", 0.0, prompt=1000, tokens=25)
    seen.until(1.0)
    ((_, refused),) = seen.of(RequestRefused)
    assert (refused.request, refused.group) == ("r", "g")


def test_whoever_leaves_is_given_nothing_more_and_makes_room() -> None:
    seen = Seen()
    seen.form(A)
    seen.until(2.0)
    seen.ask("r", 2.0, tokens=1000)
    seen.ask("next", 2.0, tokens=1)
    seen.until(2.1)
    seen.world.cancel("r", 2.1)
    seen.until(4.0)
    assert 2.0 < seen.tokens("r")[-1] <= 2.1
    assert len(seen.tokens("next")) == 1


def test_steps_that_land_together_give_the_same_tokens_in_the_same_time() -> None:
    def ended_s(at_once: int) -> float:
        seen = Seen(habits=Habits(tokens_at_once=at_once))
        seen.form(A)
        seen.ask("r", 0.0, tokens=21)
        seen.until(5.0)
        assert sum(event.tokens for _, event in seen.of(RequestProgressed)) == 21
        assert len(seen.tokens("r")) == 1 + -(-20 // at_once)
        return seen.tokens("r")[-1]

    assert ended_s(8) == pytest.approx(ended_s(1), abs=SOON_S)


def test_a_node_that_is_lost_takes_its_groups_with_it_and_keeps_its_ssd() -> None:
    seen = Seen()
    seen.form(A, B)
    seen.ask("r", 0.0, tokens=1000)
    seen.until(2.0)
    seen.form(A, now_s=2.0, name="forming")
    seen.until(2.1)
    seen.world.befall(Misfortune.NODE_LOST, "a", 2.1)
    seen.until(3.0)
    order = [event for _, event in seen.events if isinstance(event, NodeLeft | GroupLost | RequestBroke)]
    cause = "node a is gone"
    assert order == [NodeLeft("a"), GroupLost("g", cause), RequestBroke("r", "g", cause)]
    ((_, failed),) = seen.of(GroupFailed)
    assert (failed.group, failed.reason, failed.refused) == ("forming", cause, False)
    assert seen.node("b").groups == ()
    seen.world.befall(Misfortune.NODE_BACK, "a", 3.0)
    seen.until(4.0)
    back = next(event for at_s, event in seen.of(NodeReported) if event.node.name == "a" and at_s > 3.0)
    assert set(back.gained.values()) == {"ssd"}
    assert back.node.groups == ()


def test_bytes_from_a_peer_that_is_lost_come_from_the_store() -> None:
    """A second of 20 MB/s from the other node, then the store's 10 MB/s."""
    nodes = [world_node(name, nic=20.0 * MB, store_bytes_per_s=10.0 * MB) for name in ("a", "b")]
    seen = Seen(*nodes)
    seen.form(nodes[0])
    seen.until(10.0)
    seen.form(nodes[1], now_s=10.0, name="h", peer="a")
    seen.until(11.0)
    seen.world.befall(Misfortune.NODE_LOST, "a", 11.0)
    seen.until(20.0)
    times = seen.world.times("h")
    assert times is not None
    assert times.fetched_s == pytest.approx(15.0, abs=SOON_S)


@pytest.mark.parametrize(("silent_s", "lives"), [(10.0, True), (40.0, False)])
def test_a_node_that_is_silent_goes_on_where_it_stood_while_its_leases_last(silent_s: float, lives: bool) -> None:
    seen = Seen()
    seen.form(A)
    seen.ask("r", 0.0, tokens=1000)
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_SILENT, "a", 2.0)
    seen.until(2.0 + silent_s)
    assert seen.tokens("r")[-1] < 2.01
    assert max(at_s for at_s, event in seen.of(NodeReported) if event.node.name == "a") < 2.01
    seen.world.befall(Misfortune.NODE_BACK, "a", 2.0 + silent_s)
    seen.until(60.0)
    assert (len(seen.tokens("r")) == 1000) is lives
    assert bool(seen.of(GroupLost)) is not lives


def test_what_is_stopped_while_its_node_is_silent_is_gone_when_that_is_back() -> None:
    seen = Seen()
    seen.form(A)
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_SILENT, "a", 2.0)
    seen.until(2.1)
    seen.world.stop("g", 2.1)
    seen.until(3.0)
    assert not seen.of(GroupStopped)
    seen.until(8.0)
    assert seen.of(GroupStopped)
    seen.world.befall(Misfortune.NODE_BACK, "a", 8.0)
    seen.until(9.0)
    assert seen.node("a").groups == ()
    assert not seen.of(GroupLost)


def test_a_group_that_is_lost_frees_its_memory_and_breaks_its_requests() -> None:
    seen = Seen()
    seen.form(A)
    seen.ask("r", 0.0, tokens=1000)
    seen.until(2.0)
    seen.world.befall(Misfortune.GROUP_LOST, "", 2.0)
    seen.until(2.1)
    assert seen.when(GroupLost) <= seen.when(RequestBroke)
    assert seen.node("a").device_reserved_bytes == 0


def test_a_start_is_refused_once_when_a_node_will_not() -> None:
    seen = Seen()
    seen.world.befall(Misfortune.START_REFUSED, "", 0.0)
    seen.form(A)
    seen.form(A, name="h")
    seen.until(2.0)
    assert [(e.group, e.refused) for _, e in seen.of(GroupFailed)] == [("g", True)]
    assert [e.group for _, e in seen.of(GroupFormed)] == ["h"]


def test_a_scheduler_that_is_away_harms_nothing_that_is_known() -> None:
    seen = Seen()
    seen.form(A)
    seen.ask("r", 0.0, tokens=1000)
    seen.until(2.0)
    seen.world.befall(Misfortune.SCHEDULER_LOST, "", 2.0)
    seen.until(2.5)
    seen.form(B, now_s=2.5, name="h")
    seen.until(5.0)
    seen.world.befall(Misfortune.SCHEDULER_BACK, "", 5.0)
    seen.until(10.0)
    joined, again = [at_s for at_s, _ in seen.of(SchedulerJoined)]
    assert joined < seen.when(SchedulerLost) < again
    assert [e.group for _, e in seen.of(GroupFormed)] == ["g", "h"]
    assert len(seen.tokens("r")) == 1000


def test_a_group_that_nobody_asks_any_more_is_found_and_can_be_adopted() -> None:
    seen = Seen()
    seen.form(A)
    seen.ask("r", 0.0, tokens=1000)
    seen.until(2.0)
    seen.world.befall(Misfortune.GROUP_ABANDONED, "g", 2.0)
    seen.until(5.0)
    ((_, found),) = seen.of(GroupFound)
    assert (found.group, found.key, found.placement) == ("g", MODEL.key, placed(MODEL, A))
    seen.world.adopt("g", 5.0)
    seen.world.adopt("h", 5.0)
    seen.ask("again", 5.0)
    seen.until(6.0)
    assert len(seen.of(GroupFormed)) == 2
    assert [e.group for _, e in seen.of(GroupFailed)] == ["h"]
    assert len(seen.tokens("again")) == 4


def test_a_start_that_lasts_too_long_fails_and_leaves_nothing() -> None:
    seen = Seen(world_node("a", formed=100.0))
    seen.form(A)
    seen.until(70.0)
    assert seen.when(GroupFailed) == pytest.approx(60.0, abs=0.1)
    assert seen.node("a").device_reserved_bytes == 0


@pytest.mark.parametrize("end", [lambda world: world.stop("g", 0.2), lambda world: world.stop("g", 0.205)])
def test_what_is_stopped_while_it_is_formed_tells_only_that(end: Callable[[World], None]) -> None:
    seen = Seen()
    seen.form(A)
    seen.world.befall(Misfortune.NODE_LOST, "a", 0.2)
    seen.until(0.2 + SOON_S)
    end(seen.world)
    seen.until(5.0)
    assert not seen.of(GroupFailed)
    assert not seen.of(GroupFormed)
    assert seen.of(GroupStopped)


def test_a_node_of_unknown_speed_is_no_part_of_a_world() -> None:
    with pytest.raises(ValueError, match="how fast node a is"):
        World([node_of("a", 1)])


# ---- with a brain


def _log(requests: int, models: list[Model], seed: int, lasts_s: float) -> list[Arrival]:
    random = Random(seed)
    return [
        Arrival(
            random.uniform(1.0, lasts_s), f"r{index}", random.choice(models).key, random.randint(1, 200),
            random.randint(1, 600), leaves_s=random.choice([float("inf")] * 9 + [random.uniform(1.0, lasts_s)]),
        )
        for index in range(requests)
    ]  # fmt: skip


def _run(seed: int) -> list[Told]:
    models = [world_model(f"m{index}") for index in range(6)]
    world = World([world_node(f"n{index}") for index in range(4)], models, Habits(tokens_at_once=4))
    arrivals = [arrival for arrival in _log(300, models, seed, 300.0) if arrival.leaves_s > arrival.at_s]
    troubles = [
        Trouble(50.0, Misfortune.NODE_LOST, "n1"),
        Trouble(90.0, Misfortune.NODE_BACK, "n1"),
        Trouble(100.0, Misfortune.GROUP_LOST),
        Trouble(130.0, Misfortune.START_REFUSED),
        Trouble(150.0, Misfortune.NODE_LOST, "n2"),
    ]
    brain = SimpleBrain({model.key: model for model in models})
    return simulate(brain, world, [*arrivals, *troubles], until_s=1000.0)


def test_every_request_of_a_log_is_over_once_and_has_its_tokens() -> None:
    told = _run(seed=1)
    ended = [t.event.request for t in told if isinstance(t.event, RequestEnded)]
    left = {t.event.request for t in told if isinstance(t.event, RequestLeft)}
    assert len(ended) == len(set(ended))
    assert not left.intersection(ended)
    wanted = {t.event.request: t.event.max_tokens for t in told if isinstance(t.event, RequestArrived)}
    assert wanted.keys() == {*ended, *left}
    given = dict.fromkeys(wanted, 0)
    for _, event, _ in told:
        if isinstance(event, RequestProgressed):
            given[event.request] += event.tokens
    assert all(given[request] == wanted[request] for request in ended)
    assert any(isinstance(t.event, RequestBroke) for t in told), "the troubles hit nobody"
    assert any(isinstance(t.event, StartMeasured) and t.event.sound for t in told)


def test_the_same_log_is_told_the_same_way_and_times_never_run_back() -> None:
    told = _run(seed=2)
    assert told == _run(seed=2)
    assert [t.now_s for t in told] == sorted(t.now_s for t in told)
    own = [t.now_s for t in told if isinstance(t.event, GroupFormed | RequestProgressed | NodeLeft)]
    assert len(own) == len(set(own)), "two things happened at one moment"
