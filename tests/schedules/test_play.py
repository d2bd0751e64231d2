"""A scenario, played: what becomes of its requests, its starts and what it costs."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.brain import Brain
from schedules.facts import Rate
from schedules.learning import Lesson
from schedules.limits import Limits
from schedules.objectives import Objectives
from schedules.simulation.outcomes import Ending
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.simulation.simulate import Trouble, drive
from schedules.systems.system import OURS, Keeps, Startup
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from schedules.world.habits import Habits, Misfortune
from schedules.world.world import World
from tests.schedules.worlds import world_model, world_node

WANTED = Objectives(None, None, 0, 1, keep_alive_s=20.0, priority=0, max_degree=1, kv_tokens=1024)
TRACE = synthesise(Recipe(numbered(3, ["40:0.5/20:0.5"]), 0.2, 400.0, max_tokens=64), seed=1)
SCENARIO = Scenario(
    tuple(world_node(f"n{place}") for place in range(3)),
    tuple(Offered(world_model(name), WANTED) for name in TRACE.models),
    TRACE,
)


def test_the_same_is_played_each_time_and_every_request_is_served() -> None:
    one, other = play(SCENARIO), play(SCENARIO)
    assert (one.ending == Ending.SERVED).all()
    assert np.array_equal(one.ttft_s, other.ttft_s)
    assert one.starts == other.starts
    assert (one.last_s >= one.ttft_s).all()
    assert one.cold.sum() >= len(one.starts) > 3
    assert (one.ttft_s[one.cold].min() > one.ttft_s[~one.cold]).all()


def test_a_replica_costs_what_it_has_reserved_from_its_order_to_its_end() -> None:
    played = play(SCENARIO)
    lasted_s = [(start.ended_s or played.lasted_s) - start.ordered_s for start in played.starts]
    weight_bytes = 60_000_000 + 1000 * 1024
    assert played.cost_byte_s.sum() == pytest.approx(weight_bytes * sum(lasted_s))


def test_a_longer_keep_alive_costs_more_and_starts_less() -> None:
    longer = play(replace(SCENARIO, system=replace(OURS, keep_alive_s=200.0)))
    shorter = play(SCENARIO)
    assert len(longer.starts) < len(shorter.starts)
    assert longer.cost_byte_s.sum() > shorter.cost_byte_s.sum()


def test_a_serial_start_takes_its_runtime_its_bytes_and_its_tail_one_after_the_other() -> None:
    nothing = replace(OURS, keeps=Keeps(dram=False, ssd=False))
    at_once = play(replace(SCENARIO, system=nothing))
    serial = play(replace(SCENARIO, system=replace(nothing, startup=Startup(serial=True, tail_s=2.0))))
    first = int(np.flatnonzero(at_once.cold)[0])
    assert serial.ttft_s[first] == pytest.approx(at_once.ttft_s[first] + 0.5 + 2.0, abs=0.01)


def test_what_passes_on_the_way_to_the_brain_is_part_of_every_ttft() -> None:
    played, longer = play(SCENARIO), play(replace(SCENARIO, habits=Habits(receive_s=0.125)))
    assert longer.ttft_s == pytest.approx(played.ttft_s + 0.125, abs=1e-3)
    for one, other in zip(played.starts, longer.starts, strict=True):
        assert other.arrived_s == pytest.approx(one.arrived_s, abs=1e-3)
        assert other.first_token_s == pytest.approx((one.first_token_s or 0.0) + 0.125, abs=1e-3)


def test_a_node_that_is_slower_than_it_says_is_believed_and_is_slow() -> None:
    """What a cold start was thought to take is by what nodes report, what it takes by what they are."""
    slow = {node.name: dict(node.rates) | {"nic": Rate(50e6, 50e6, 9)} for node in SCENARIO.nodes}
    said, was = (play(replace(SCENARIO, truly=truly)).starts[0] for truly in ({}, slow))
    assert was.predicted_s == said.predicted_s
    assert (was.fetched_s or 0.0) - was.ordered_s == pytest.approx(2 * ((said.fetched_s or 0.0) - said.ordered_s))


def test_what_earlier_starts_taught_is_in_the_first_prediction() -> None:
    """They all took half a second longer than was thought."""
    taught = play(replace(SCENARIO, lessons=(Lesson(1, 1.0, 1.5), Lesson(1, 1.0, 1.5))))
    assert taught.starts[0].predicted_s == pytest.approx((play(SCENARIO).starts[0].predicted_s or 0.0) + 0.5)


def test_what_nodes_do_not_keep_comes_from_the_store_each_time() -> None:
    kept = play(SCENARIO)
    lost = play(replace(SCENARIO, system=replace(OURS, keeps=Keeps(dram=False, ssd=False))))
    on_ssd = play(replace(SCENARIO, system=replace(OURS, keeps=Keeps(dram=False))))
    assert kept.moved_bytes["remote"] == 3 * 60_000_000 < lost.moved_bytes["remote"]
    assert lost.moved_bytes.get("ssd", 0) == 0 < on_ssd.moved_bytes["ssd"]


def test_who_is_held_for_too_long_is_rejected_and_misses_its_target() -> None:
    played = play(replace(SCENARIO, patience_s=0.3))
    rejected = played.ending == Ending.REJECTED
    assert rejected.any()
    assert np.isnan(played.ttft_s[rejected]).all()
    no_limit = np.full(3, np.inf)
    assert np.array_equal(played.attained(no_limit, no_limit), ~rejected)


def test_progress_is_told_of_many_requests() -> None:
    trace = synthesise(Recipe(numbered(3, ["40:0.5/20:0.5"]), 4.0, 400.0, max_tokens=64), seed=1)
    seen: list[int] = []
    play(replace(SCENARIO, trace=trace), seen.append)
    assert seen == [500, 1000, 1500]


def test_inputs_that_are_not_in_order_are_told_of() -> None:
    world, brain = World(SCENARIO.nodes), Brain(OURS.policy(0), Limits(60.0, 10, 10, consolidate=False), "g", 0.0)
    inputs = [Trouble(2.0, Misfortune.NODE_LOST, "n0"), Trouble(1.0, Misfortune.NODE_LOST, "n1")]
    with pytest.raises(ValueError, match=r"at 1\.0 s is told of after what comes at 2\.0 s"):
        drive(brain, world, inputs, lambda *_: None)
