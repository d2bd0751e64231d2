"""Choosing nodes: within their memory, one stage each, where the bytes are."""

from dataclasses import replace
from itertools import pairwise, permutations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Model, NoPlacement, Placement, View
from schedules.placing.partition import split_layers, stage_bytes
from schedules.placing.policies.fixed import place
from tests.schedules.models import model_of, models, node_of, views


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Model, View, int, int]:
    model = draw(models())
    return model, draw(views(model)), draw(st.integers(1, 5)), draw(st.integers(1, 30))


def _needs(model: Model, degree: int, kv_tokens: int) -> list[int]:
    """Bytes that each stage must find, in whole bytes upwards."""
    spans = pairwise(split_layers(model, degree))
    kv_bytes = model.kv_bytes_per_token * kv_tokens
    return [stage_bytes(model, a, b) + -(-kv_bytes * (b - a) // model.layers) for a, b in spans]


def _fits(model: Model, view: View, degree: int, kv_tokens: int) -> bool:
    """Whether any choice of nodes has room, by trying all."""
    if degree > model.layers:
        return False
    needs = _needs(model, degree, kv_tokens)
    choices = permutations([node.device_free_bytes for node in view.nodes], degree)
    return any(all(need <= free for need, free in zip(needs, choice, strict=True)) for choice in choices)


@given(_cases())
def test_no_node_is_asked_for_more_than_it_has_or_twice(case: tuple[Model, View, int, int]) -> None:
    model, view, degree, kv_tokens = case
    placement = place(model, view, degree, kv_tokens)
    if isinstance(placement, NoPlacement):
        return
    nodes = [view.node(stage.node) for stage in placement.stages]
    assert len({stage.node for stage in placement.stages}) == placement.degree <= degree
    for stage, node in zip(placement.stages, nodes, strict=True):
        assert node is not None
        assert stage.reserve_bytes <= node.device_free_bytes


@given(_cases())
def test_the_stages_are_the_split_of_the_model_and_share_its_cache(case: tuple[Model, View, int, int]) -> None:
    model, view, degree, kv_tokens = case
    placement = place(model, view, degree, kv_tokens)
    if isinstance(placement, NoPlacement):
        return
    bounds = split_layers(model, placement.degree)
    assert [(stage.first_layer, stage.end_layer) for stage in placement.stages] == list(pairwise(bounds))
    assert [stage.reserve_bytes for stage in placement.stages] == _needs(model, placement.degree, kv_tokens)
    assert placement.kv_tokens == kv_tokens


@given(_cases())
def test_the_largest_degree_that_fits_anywhere_is_taken(case: tuple[Model, View, int, int]) -> None:
    model, view, degree, kv_tokens = case
    possible = [d for d in range(1, degree + 1) if _fits(model, view, d, kv_tokens)]
    placement = place(model, view, degree, kv_tokens)
    assert (placement.degree if isinstance(placement, Placement) else 0) == max(possible, default=0)


@given(_cases(), st.randoms(use_true_random=False))
def test_the_same_facts_give_the_same_placement_in_whatever_order(
    case: tuple[Model, View, int, int], random: Random
) -> None:
    model, view, degree, kv_tokens = case
    shuffled = list(view.nodes)
    random.shuffle(shuffled)
    assert place(model, view, degree, kv_tokens) == place(model, View(tuple(shuffled)), degree, kv_tokens)


def test_nodes_that_hold_the_bytes_are_preferred_to_nodes_with_more_room() -> None:
    model = model_of([5, 10, 10, 5])
    view = View((
        node_of("a-roomy", 1000),
        node_of("holds-first", 100, units={"digest0": "ssd", "digest1": "ssd"}),
        node_of("holds-second", 100, units={"digest2": "ssd", "digest3": "ssd"}),
    ))  # fmt: skip
    placement = place(model, view, 2, 1)
    assert isinstance(placement, Placement)
    assert [stage.node for stage in placement.stages] == ["holds-first", "holds-second"]


def test_dram_is_preferred_to_ssd() -> None:
    model = model_of([5, 10, 5])
    held = [unit.digest for unit in model.units]
    view = View(
        (node_of("a", 100, units=dict.fromkeys(held, "ssd")), node_of("b", 100, units=dict.fromkeys(held, "dram")))
    )
    placement = place(model, view, 1, 1)
    assert isinstance(placement, Placement)
    assert placement.stages[0].node == "b"


def test_among_equals_more_free_memory_wins_and_then_the_name() -> None:
    model = model_of([5, 10, 5])
    roomy = place(model, View((node_of("a", 100), node_of("b", 200))), 1, 1)
    named = place(model, View((node_of("b", 100), node_of("a", 100))), 1, 1)
    assert isinstance(roomy, Placement)
    assert isinstance(named, Placement)
    assert (roomy.stages[0].node, named.stages[0].node) == ("b", "a")


def test_a_stage_with_the_longest_cache_finds_its_node_although_another_is_heavier() -> None:
    """The heavier stage once chose first and took the only node on which the one with more cache would have fitted."""
    model = model_of([35, 1, 10, 10, 10, 1], kv_bytes_per_token=40)
    view = View((node_of("large", 80, units={"digest0": "dram"}), node_of("small", 50)))
    assert _needs(model, 2, 1) == [46, 61]
    placement = place(model, view, 2, 1)
    assert isinstance(placement, Placement)
    assert [stage.node for stage in placement.stages] == ["small", "large"]


def test_without_enough_nodes_fewer_stages_are_formed_and_it_says_so() -> None:
    placement = place(model_of([5, 10, 10, 10, 10, 5]), View((node_of("a", 100), node_of("b", 100))), 4, 1)
    assert isinstance(placement, Placement)
    assert placement.degree == 2
    assert any("degree 2 of 4 wanted: 2 nodes connected" in reason for reason in placement.reasons)


def test_a_model_with_fewer_layers_than_stages_wanted_gets_one_a_layer() -> None:
    placement = place(model_of([5, 10, 10, 5]), View(tuple(node_of(f"n{i}", 100) for i in range(4))), 4, 1)
    assert isinstance(placement, Placement)
    assert placement.degree == 2


def test_a_degree_that_has_no_room_is_ruled_out_with_a_reason() -> None:
    placement = place(model_of([5, 10, 10, 5]), View((node_of("a", 100), node_of("b", 1))), 2, 1)
    assert isinstance(placement, Placement)
    assert placement.degree == 1
    assert placement.reasons[0].startswith("degree 2 ruled out: layers ")


def test_a_draining_node_gets_nothing() -> None:
    view = View((replace(node_of("a", 1000), draining=True), node_of("b", 100)))
    placement = place(model_of([5, 10, 10, 5]), view, 2, 1)
    assert isinstance(placement, Placement)
    assert [stage.node for stage in placement.stages] == ["b"]


def test_without_nodes_it_says_how_to_start_one() -> None:
    placement = place(model_of([1, 1, 1]), View(()), 1, 1)
    assert isinstance(placement, NoPlacement)
    assert "firsttoken node" in placement.reason


def test_without_room_it_says_how_much_is_missing() -> None:
    model = model_of([10**9, 2 * 10**9, 10**9])
    placement = place(model, View((node_of("a", 10**9),)), 1, 1)
    assert isinstance(placement, NoPlacement)
    assert "no room for model" in placement.reason
    assert "4.00 GB" in placement.reason
