"""The short list: whatever fits on some nodes fits on it, and what is not known of a node is taken from the others."""

from dataclasses import replace
from itertools import pairwise, permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schedules.placing.survey
from schedules.facts import Model, Rate, View
from schedules.ledgers.links import Links
from schedules.ledgers.nodes import link_rates
from schedules.ledgers.shares import Transfer
from schedules.placing.candidates import candidate
from schedules.placing.choices import _worth_a_look
from schedules.placing.partition import runs_of, split_layers, stage_bytes
from schedules.placing.survey import Survey
from schedules.rates import NIC, STORE
from tests.schedules.models import measured_views, model_of, models, node_of, question_of, rates_of, views
from tests.told import objectives_of


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Model, View, int]:
    model = draw(models())
    return model, draw(st.one_of(views(model), measured_views(model))), draw(st.integers(1, model.layers))


@given(_cases(), st.integers(1, 30))
def test_what_fits_on_any_nodes_fits_on_the_short_list(case: tuple[Model, View, int], kv_tokens: int) -> None:
    """With so short a list that choosing matters, against trying all."""
    model, view, degree = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedules.placing.survey, "HOLDERS", 1)
        patch.setattr(schedules.placing.survey, "SPARE", 0)
        survey = Survey(question_of(model, view, objectives_of(kv_tokens=kv_tokens)))
        found = candidate(survey, degree)
    bounds, kv_bytes = split_layers(model, degree), model.kv_bytes_per_token * kv_tokens
    needs = [stage_bytes(model, a, b) - (-kv_bytes * (b - a) // model.layers) for a, b in pairwise(bounds)]
    free = [node.stage_free_bytes for node in view.nodes if not node.draining]
    fits = any(all(n <= f for n, f in zip(needs, chosen, strict=True)) for chosen in permutations(free, degree))
    assert (found.placement is not None) == fits
    assert survey.could_hold(degree) or not fits


def test_a_stage_far_smaller_than_the_others_finds_its_small_node() -> None:
    """Nodes with less than a sixteenth of the model were once left out, though single layers fitted on them."""
    model = model_of([900, 10, 10, 10, 10, 0])
    view = View((node_of("large", 920), *(node_of(f"small{i}", 12) for i in range(3))))
    found = candidate(Survey(question_of(model, view)), 4)
    assert found.placement is not None
    assert set(found.nodes) == {"large", "small0", "small1", "small2"}


def test_a_holder_with_room_is_on_the_list_behind_many_that_are_full() -> None:
    model = model_of([10] * 4)
    held = {unit.digest: "dram" for unit in model.units}
    full = [node_of(f"a{i:02}", 10, units=held) for i in range(40)]
    others = [node_of(f"b{i:02}", 500) for i in range(60)]
    view = View((*full, *others, node_of("holder", 50, units=held)))
    assert candidate(Survey(question_of(model, view)), 1).nodes == ("holder",)


def test_who_has_the_units_in_dram_comes_before_who_has_them_on_ssd() -> None:
    model = model_of([10] * 4)
    on_ssd = [node_of(f"a{i:02}", 100, units={u.digest: "ssd" for u in model.units}) for i in range(40)]
    view = View((*on_ssd, node_of("z", 100, units={u.digest: "dram" for u in model.units})))
    assert candidate(Survey(question_of(model, view)), 1).nodes == ("z",)


def test_nodes_with_network_and_memory_to_spare_are_found_among_many() -> None:
    model = model_of([10] * 4)
    slow = [replace(node_of(f"n{i:03}", 60), rates=rates_of(nic=1.0)) for i in range(200)]
    view = View((*slow, replace(node_of("fast", 60), rates=rates_of(nic=9.0)), node_of("roomy", 999)))
    names = {site.node.name for site in Survey(question_of(model, view)).shortlist(40, 1)}
    assert {"fast", "roomy"} <= names
    assert len(names) < 40


def test_a_draining_node_is_neither_used_nor_asked_for_units() -> None:
    model = model_of([10] * 4)
    held = {unit.digest: "dram" for unit in model.units}
    leaving = replace(node_of("leaving", 500, units=held), draining=True, peer_port=1)
    survey = Survey(question_of(model, View((leaving, node_of("staying", 100)))))
    assert [site.node.name for site in survey.shortlist(0, 2)] == ["staying"]
    staying = replace(node_of("staying", 100), peer_port=1)
    assert set(survey.sources.of(staying)) == {(STORE,)}


def test_a_node_that_was_not_measured_is_taken_for_the_middle_of_the_others() -> None:
    nodes = [replace(node_of(name, 100), rates=rates_of(nic=nic)) for name, nic in (("a", 2.0), ("b", 4.0), ("c", 9.0))]
    question = question_of(model_of([10] * 4), View((*nodes, node_of("new", 1000))))
    site = next(site for site in Survey(question).shortlist(0, 1) if site.node.name == "new")
    assert site.mean is not None
    assert site.mean.nic_bytes_per_s == 4.0
    assert question.links.rates["nic:new"] == question.links.rates["out:new"] == 4.0


def test_a_node_without_rates_is_not_taken_for_infinitely_fast() -> None:
    """Its card had no limit in the ledger, so that its fetches were predicted to be done at once."""
    view = View((replace(node_of("known", 100), rates=rates_of(nic=10.0)), node_of("new", 100)))
    found = candidate(Survey(question_of(model_of([10] * 4), view)), 1)
    alone = candidate(Survey(question_of(model_of([10] * 4), view)), 1, [view.nodes[1]])
    assert found.prediction is not None
    assert alone.prediction is not None
    assert found.prediction.ttft_s == alone.prediction.ttft_s == pytest.approx(4.0, abs=0.01)


def test_a_node_that_fetches_already_is_busy_until_its_queue_is_done() -> None:
    view = View(tuple(replace(node_of(name, 100), rates=rates_of(nic=10.0)) for name in ("a", "b")))
    links = Links(link_rates(view), 0.0)
    links.begin([Transfer(f"t{i}", ("nic:a",), 30.0, queue="a") for i in range(2)], 0.0)
    survey = Survey(question_of(model_of([10] * 4), view, links=links))
    assert survey.busy_s == {"a": 6.0}
    assert {s.node.name: s.fetch_s([(0, 4)]) for s in survey.shortlist(0, 1)} == {"a": 10.0, "b": 4.0}
    assert candidate(survey, 1).nodes == ("b",)


def test_bytes_are_counted_by_where_they_lie() -> None:
    node = replace(node_of("a", 100, units={"digest1": "ssd", "digest2": "dram"}), rates=rates_of(nic=10.0, ssd=2.0))
    site = Survey(question_of(model_of([10, 20, 30, 40]), View((node,)))).shortlist(0, 1)[0]
    assert (list(site.far), list(site.near)) == ([0, 10, 10, 10, 50], [0, 0, 20, 20, 20])
    assert site.fetch_s([(0, 1)]) == 1.0
    assert site.fetch_s([(0, 4)]) == 10.0
    assert site.fetch_s([(2, 3)]) == 0.0


@given(st.lists(st.integers(0, 20), unique=True))
def test_runs_hold_just_what_they_are_made_of_in_order(units: list[int]) -> None:
    assert [i for first, end in runs_of(units) for i in range(first, end)] == units


@given(_cases(), st.randoms(use_true_random=False))
def test_the_short_list_is_the_same_in_whatever_order_nodes_come(case: tuple[Model, View, int], random: Random) -> None:
    model, view, degree = case
    shuffled = list(view.nodes)
    random.shuffle(shuffled)
    one, other = (Survey(question_of(model, v)).shortlist(5, degree) for v in (view, View(tuple(shuffled))))
    assert one == other


def test_links_are_as_fast_as_nodes_say_and_the_store_if_it_was_seen_to_limit_them() -> None:
    nodes = [replace(node_of(name, 1), rates=rates_of(nic=nic)) for name, nic in (("a", 2.0), ("b", 4.0))]
    assert link_rates(View(tuple(nodes))) == {"nic:a": 2.0, "out:a": 2.0, "nic:b": 4.0, "out:b": 4.0}
    limited = replace(nodes[0], rates={**nodes[0].rates, STORE: Rate(5.0, 4.0, 1)})
    assert link_rates(View((limited, nodes[1])))[STORE] == 5.0
    assert link_rates(View((node_of("a", 1),))) == {}
    assert NIC not in node_of("a", 1).rates


@pytest.mark.parametrize(("more_bytes", "times"), [(0, 1), (3, 1), (30, 2)], ids=["the same", "about the same", "more"])
def test_nodes_are_looked_at_again_for_what_a_process_takes_only_if_that_differs(more_bytes: int, times: int) -> None:
    """It is measured, and no two of a kind measure the same."""
    light, heavy = (
        replace(node_of(name, 2000), rates=rates_of(nic=2.0), gpu=f"gpu {name}", context_bytes=size_bytes)
        for name, size_bytes in (("light", 50), ("heavy", 50 + more_bytes))
    )
    survey = Survey(question_of(model_of([100] * 4), View((light, heavy))))
    looked = [[site.node.name for site in sites] for sites in _worth_a_look(survey, 1)]
    assert len(looked) == 3 * times
    assert ["heavy"] not in looked[3:]
