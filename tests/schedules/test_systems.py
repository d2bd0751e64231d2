"""Systems to compare: each serves all that comes, and is what sets it apart."""

import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from schedules.facts import Node, Rate
from schedules.objectives import Objectives
from schedules.rates import BUS
from schedules.simulation.outcomes import Ending, Outcomes, StartSeen
from schedules.simulation.play import play
from schedules.simulation.scenario import Offered, Scenario
from schedules.simulation.simulate import Trouble
from schedules.systems import SYSTEMS
from schedules.systems.plain import keeping_alive
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from schedules.world.habits import Misfortune
from tests.schedules.traces.made import Request, trace
from tests.schedules.worlds import MB, world_model, world_node

WANTED = Objectives(None, None, 0, 1, keep_alive_s=20.0, priority=0, max_degree=4, kv_tokens=1024)
WHOLE_BYTES = 60 * MB + 1000 * 1024
TRACE = synthesise(Recipe(numbered(3, ["40:0.5/20:0.5"]), 0.2, 300.0, max_tokens=64), seed=1)
BUSY = Scenario(
    tuple(world_node(f"n{place}", device_bytes=130 * MB) for place in range(3)),
    tuple(Offered(world_model(name), replace(WANTED, ttft_s=2.5)) for name in TRACE.models),
    TRACE,
)
"""Three models for which memory is short at times, of which HydraServe's rule takes two stages of each if it can."""


def _scenario(system: str, requests: list[Request], *nodes: Node, **wanted: float) -> Scenario:
    """The requests, of models of 60 MB, which the nodes' cards bring in 0.6 s."""
    asked = trace(*requests)
    objectives = replace(WANTED, **wanted)  # type: ignore[arg-type]
    return Scenario(
        nodes, tuple(Offered(world_model(n), objectives) for n in asked.models), asked, SYSTEMS[system], seed=1
    )


def _played(system: str, requests: list[Request], *nodes: Node, **wanted: float) -> Outcomes:
    played = play(_scenario(system, requests, *nodes, **wanted))
    assert (played.ending == Ending.SERVED).all()
    return played


def _holding(node: Node, model: str, tier: str) -> Node:
    return replace(node, units={unit.digest: tier for unit in world_model(model).units})


def _began(played: Outcomes) -> list[StartSeen]:
    """The starts in the order in which they were ordered."""
    return sorted(played.starts, key=lambda start: start.ordered_s)


@cache
def _busy(system: str, seed: int = 1) -> Outcomes:
    return play(replace(BUSY, system=SYSTEMS[system], seed=seed))


# ---- all of them


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_serves_every_request_and_the_same_each_time(system: str) -> None:
    one, sent = _busy(system), pickle.loads(pickle.dumps(SYSTEMS[system]))
    assert (one.ending == Ending.SERVED).all()
    other = play(replace(BUSY, system=sent, seed=1))
    assert np.array_equal(one.ttft_s, other.ttft_s)
    assert one.starts == other.starts


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_go_by_their_names_and_theirs_fetch_from_no_peer(system: str) -> None:
    assert SYSTEMS[system].name == system
    assert system.startswith("firsttoken") or _busy(system).moved_bytes.get("peer", 0) == 0


def test_a_keep_alive_of_its_own_holds_for_each_model() -> None:
    longer = keeping_alive(SYSTEMS["lru"], 250.0)
    assert longer.name == "lru-keep-alive-250"
    played = play(replace(BUSY, system=longer))
    assert (played.ending == Ending.SERVED).all()
    assert len(played.starts) < len(_busy("lru").starts)


# ---- plain ones


def test_lots_fall_the_same_way_for_one_seed_and_otherwise_for_another() -> None:
    where = [[start.nodes for start in _began(_busy("random", seed))] for seed in (1, 2)]
    assert where[0] != where[1]
    assert set(where[0]) == {("n0",), ("n1",), ("n2",)}


def test_vllm_takes_the_first_machine_with_room_and_the_node_there_that_it_fits_best() -> None:
    first, second = (replace(world_node(name), machine="a") for name in ("n1", "n2"))
    roomy = world_node("n0", device_bytes=600 * MB)
    taken = _played(
        "vllm", [(0.0, "m", 10, 5)], replace(first, device_bytes=500 * MB), second, replace(roomy, machine="b")
    )
    assert taken.starts[0].nodes == ("n0",)
    little = replace(roomy, device_bytes=10 * MB)
    taken = _played("vllm", [(0.0, "m", 10, 5)], replace(first, device_bytes=500 * MB), second, little)
    assert taken.starts[0].nodes == ("n2",)


def test_vllm_pays_runtime_fetch_and_copy_one_after_the_other_and_keeps_nothing() -> None:
    """0.5, 0.6 and 0.4 s."""
    node = world_node("n")
    node = replace(node, rates={**node.rates, BUS: Rate(150.0 * MB, 150.0 * MB, 9)})
    requests = [(0.0, "m", 10, 5), (100.0, "m", 10, 5)]
    played = _played("vllm", requests, node)
    assert played.ttft_s == pytest.approx([1.5, 1.5], abs=0.03)
    assert played.moved_bytes == {"remote": 2 * 60 * MB}


def test_the_roomiest_node_is_taken_and_what_it_had_is_kept() -> None:
    nodes = world_node("a"), world_node("b", device_bytes=500 * MB), world_node("c")
    played = _played("lru", [(0.0, "m", 10, 5), (100.0, "m", 10, 5)], *nodes)
    assert [start.nodes for start in played.starts] == [("b",), ("b",)]
    assert played.moved_bytes == {"remote": 60 * MB}


# ---- ServerlessLLM


def test_serverlessllm_goes_where_the_model_is_and_there_is_room() -> None:
    nodes = world_node("a", nic=1000.0 * MB), _holding(world_node("b"), "m", "ssd"), world_node("c")
    played = _played("serverlessllm", [(0.0, "m", 10, 5)], *nodes)
    assert played.starts[0].nodes == ("b",)
    assert played.moved_bytes == {"ssd": 60 * MB}


def _where_it_is_taken(system: str) -> Outcomes:
    """Node b has both models in dram and room for one; a has only "x", on ssd, and a slow card."""
    a = _holding(world_node("a", device_bytes=200 * MB, nic=2.0 * MB), "x", "ssd")
    b = _holding(world_node("b", device_bytes=100 * MB), "x", "dram")
    b = replace(b, units={**b.units, **_holding(b, "m", "dram").units})
    return _played(system, [(0.0, "x", 10, 20_000), (20.0, "m", 10, 5)], a, b, kv_tokens=32768)


def test_without_migration_the_model_is_fetched_again_where_there_is_room() -> None:
    played = _where_it_is_taken("serverlessllm")
    assert [start.nodes for start in _began(played)] == [("b",), ("a",)]
    assert played.ttft_s[1] > 30.0


def test_with_migration_what_runs_where_the_model_is_goes_on_elsewhere() -> None:
    played = _where_it_is_taken("serverlessllm-migration")
    x, moved, m = _began(played)
    assert x.nodes == m.nodes == ("b",)
    assert moved.nodes == ("a",)
    assert moved.behind
    assert played.ttft_s[1] < 5.0


# ---- HydraServe


def test_hydraserve_takes_as_few_stages_as_meet_the_level_by_its_rule() -> None:
    """One stage takes 0.6 + 2 s by it, two 2.3."""
    nodes = [world_node(name) for name in "abcd"]
    degrees = [
        _began(_played("hydraserve", [(0.0, "m", 10, 5)], *nodes, ttft_s=ttft_s))[0].degree for ttft_s in (2.7, 2.5)
    ]
    assert degrees == [1, 2]


def _grown(system: str = "hydraserve") -> Outcomes:
    """Neither node has room for a stage and the whole model besides."""
    nodes = world_node("a", device_bytes=80 * MB), world_node("b", device_bytes=40 * MB)
    return _played(system, [(0.0, "m", 10, 400), (60.0, "m", 10, 5)], *nodes, ttft_s=2.5, keep_alive_s=100.0)


def test_hydraserve_becomes_whole_at_once_in_what_was_reserved_for_that() -> None:
    pipeline, whole = _began(_grown())
    assert set(pipeline.nodes) == {"a", "b"}
    assert whole.nodes == ("a",)
    assert whole.behind
    assert pipeline.first_token_s is not None
    assert pipeline.ended_s is not None
    assert pipeline.ended_s - pipeline.first_token_s < 1.0


@pytest.mark.parametrize(("replicas", "wholes"), [(1, 1), (4, 2)])
def test_each_stage_with_room_for_all_becomes_a_replica_as_far_as_the_model_may_have_so_many(
    replicas: int, wholes: int
) -> None:
    """Three stages take 2.2 s by the rule, and a token 16 ms with one of them whole, 12 ms with two."""
    nodes = [world_node(name, device_bytes=80 * MB) for name in "abcd"]
    levels = {"ttft_s": 2.25, "tpot_s": 0.014, "max_replicas": replicas}
    pipeline, *whole = _began(_played("hydraserve", [(0.0, "m", 10, 400)], *nodes, **levels))
    assert pipeline.degree == 3
    assert len(whole) == wholes
    assert {start.nodes[0] for start in whole} < set(pipeline.nodes)


def test_what_it_grows_into_is_paid_once() -> None:
    played = _grown()
    pipeline, _ = _began(played)
    assert pipeline.ended_s is not None
    low_bytes = WHOLE_BYTES / 2
    paid = WHOLE_BYTES * (played.lasted_s - pipeline.ordered_s) + low_bytes * (pipeline.ended_s - pipeline.ordered_s)
    assert played.cost_byte_s.sum() == pytest.approx(paid, rel=0.01)
    assert played.by_minute.device_reserved_byte_s.sum() == pytest.approx(paid, rel=0.01)


def test_ours_has_no_room_to_become_whole_there() -> None:
    """What is reserved for it beforehand is HydraServe's alone."""
    assert not any(start.behind for start in _grown("firsttoken").starts)


def test_a_slice_computes_as_much_slower_as_it_is_smaller() -> None:
    """A token takes 6 ms whole, and 3 ms and 6 ms in two stages of which one is a slice."""
    nodes = [world_node(name, decode=1e10) for name in "ab"]
    scenario = _scenario("hydraserve", [(0.0, "m", 10, 40)], *nodes, ttft_s=2.5)
    staying = replace(scenario.system, consolidate=False)
    sliced = play(replace(scenario, system=staying)).tpot_s[0]
    even = play(replace(scenario, system=replace(staying, startup=SYSTEMS["lru"].startup))).tpot_s[0]
    assert sliced - even == pytest.approx(0.003, rel=0.05)


def test_its_cache_has_whole_models_of_starts_of_one_stage_and_no_others() -> None:
    nodes = [world_node(name) for name in "ab"]
    requests = [(0.0, "m", 10, 5), (100.0, "m", 10, 5)]
    alone = _played("hydraserve-cache", requests, *nodes, ttft_s=2.7)
    assert alone.moved_bytes == {"remote": 60 * MB}
    assert [start.degree for start in alone.starts] == [1, 1]
    pipelines = _played("hydraserve-cache", requests, *nodes, ttft_s=2.5)
    assert pipelines.moved_bytes == {"remote": (60 + 30 + 60) * MB}  # the first one became whole
    assert _played("hydraserve", requests, *nodes, ttft_s=2.7).moved_bytes == {"remote": 2 * 60 * MB}


def test_who_has_the_model_in_memory_starts_it_in_one_stage_whatever_the_level() -> None:
    nodes = world_node("a"), _holding(world_node("b"), "m", "dram")
    played = _played("hydraserve-cache", [(0.0, "m", 10, 5)], *nodes, ttft_s=2.4)
    assert played.starts[0].nodes == ("b",)
    assert not played.moved_bytes


@pytest.mark.parametrize("lost", ["", "b", "a"], ids=["the pipeline", "its slice's node", "the node where it grows"])
@pytest.mark.parametrize("at_s", [0.3, 0.7, 1.0, 1.25, 1.6])
def test_whatever_is_lost_while_it_grows_nothing_stays_reserved_and_no_request_is_lost(at_s: float, lost: str) -> None:
    """Its first token is there after 0.6 s, and it is whole 0.6 s later. The second request needs all of the room."""
    nodes = world_node("a", device_bytes=80 * MB), world_node("b", device_bytes=80 * MB)
    scenario = _scenario("hydraserve", [(0.0, "m", 10, 400), (60.0, "x", 10, 5)], *nodes, ttft_s=2.5, keep_alive_s=10.0)
    what = Misfortune.NODE_LOST if lost else Misfortune.GROUP_LOST
    back = (Trouble(30.0, Misfortune.NODE_BACK, lost),) if lost else ()
    played = play(replace(scenario, troubles=(Trouble(at_s, what, lost), *back)))
    assert (played.ending == Ending.SERVED).all()
    assert played.ttft_s[1] < 2.5
