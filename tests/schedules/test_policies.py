"""The anchors' rules by example, and what every policy keeps."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Model, Node, NoPlacement, Placement, Rate, View
from schedules.ledgers.links import Links
from schedules.ledgers.nodes import link_rates
from schedules.ledgers.shares import Transfer
from schedules.placing.decision import Question, Wait
from schedules.placing.policies import POLICIES
from schedules.placing.policies.hydraserve import HydraServe, shared
from schedules.rates import BUS, DECODE
from schedules.systems import SYSTEMS
from tests.schedules.models import measured_views, model_of, models, node_of, objectives, question_of, rates_of
from tests.told import objectives_of

HYDRA, SLLM = POLICIES["hydraserve"], POLICIES["serverlessllm"]
SLICED = HydraServe(sliced=True)
COMPARED = ("hydraserve", "serverlessllm-migration", "vllm", "random", "lru")
ALL = {**POLICIES, **{f"of {name}": SYSTEMS[name].policy(0) for name in COMPARED}}
"""Of the live router, and those that other systems have."""
GIB, CARD = 10**9, 2e9  # 16 Gbit/s


def _llama(gigabytes: int) -> Model:
    return model_of([0, *[GIB * gigabytes // 10] * 10, 0])


def _node(name: str, nic: float = CARD, device_bytes: int = 40 * GIB, token_s: float = 0.042) -> Node:
    """That takes `token_s` for a token of 13 GB."""
    speeds = rates_of(nic=nic, ssd=6e9, decode=13e9 / token_s, prefill=1e15)
    return replace(node_of(name, device_bytes), rates=speeds)


def _asked(
    gigabytes: int, ttft_s: float | None, *nodes: Node, tpot_s: float | None = None, waited_s: float = 0.0
) -> Question:
    view = View(nodes or tuple(_node(name) for name in "abcd"))
    goal = objectives_of(ttft_s=ttft_s, tpot_s=tpot_s, kv_tokens=1)
    return question_of(_llama(gigabytes), view, goal, waited_s=waited_s)


def _why(question: Question) -> str:
    outcome = HYDRA.decide(question).outcome
    assert isinstance(outcome, Placement)
    return outcome.reasons[0]


# ---- HydraServe


@pytest.mark.parametrize(
    ("stages", "whole", "factor"),
    [
        (1, 1, 1.0),
        (2, 1, 1.5),
        (2, 2, 1.0),
        (3, 1, 7 / 3),
        (3, 2, 5 / 3),
        (4, 1, 3.25),
        (4, 2, 2.5),
        (4, 3, 1.75),
        (4, 4, 1.0),
    ],
)
def test_a_stage_with_a_share_of_the_memory_has_a_share_of_the_compute(stages: int, whole: int, factor: float) -> None:
    assert shared(stages, whole) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("gigabytes", "token_s", "ttft_s", "tpot_s"),
    [(13, 0.042, 7.5, 0.2), (13, 0.042, 7.5, 0.084), (25, 0.058, 12.0, 0.2), (25, 0.058, 12.0, 0.116)],
)
def test_the_classes_of_their_trace_get_two_stages_one_of_them_with_room_for_all(
    gigabytes: int, token_s: float, ttft_s: float, tpot_s: float
) -> None:
    """On 16 Gbit/s one stage takes 8.5 s and 14.5 s and the prompt, two 5.25 s and 8.25 s; 64 and 88 ms a token."""
    nodes = [_node(name, token_s=token_s * 13 / gigabytes) for name in "abcd"]
    question = _asked(gigabytes, ttft_s, *nodes, tpot_s=tpot_s)
    decision = HYDRA.decide(question)
    assert decision.chosen is not None
    assert decision.chosen.degree == 2
    assert _why(question).startswith("2 stage(s), 1 with room for all")
    one_s = gigabytes / 2 + token_s + 2.0
    refused = f"first token after {one_s:.2f} s by the rule, {ttft_s:.2f} s wanted"
    assert [c.ruled_out for c in decision.candidates[:-1]] == [refused]


def test_a_stricter_first_token_gets_more_stages_up_to_four_and_then_one() -> None:
    """13 GB: 8.5, 5.25, 4.17 and 3.63 s in one to four stages."""
    degrees = {}
    for ttft_s in (9.0, 5.5, 4.5, 3.8, 3.5):
        decision = HYDRA.decide(_asked(13, ttft_s))
        assert decision.chosen is not None
        degrees[ttft_s] = decision.chosen.degree
    assert degrees == {9.0: 1, 5.5: 2, 4.5: 3, 3.8: 4, 3.5: 1}


def test_a_strict_token_time_makes_more_of_the_stages_whole() -> None:
    """Of two stages one whole takes 1.5 x 42 + 1 ms, two whole 43."""
    assert _why(_asked(13, 7.5, tpot_s=0.05)).startswith("2 stage(s), 2 with room for all")
    assert _why(_asked(13, 7.5, tpot_s=0.041)).startswith("nothing meets the service level: one stage")


def test_the_time_that_was_waited_counts() -> None:
    assert _why(_asked(13, 7.5, waited_s=2.0)).startswith("2 stage(s)")
    assert _why(_asked(13, 7.5, waited_s=3.0)).startswith("3 stage(s)")


def test_the_slowest_card_that_is_chosen_counts() -> None:
    """With a quarter of the card on the second node two stages take 15 s."""
    nodes = (_node("a"), _node("b", nic=CARD / 4))
    assert _why(_asked(13, 7.5, *nodes)).startswith("nothing meets the service level")


def test_without_a_service_level_it_is_one_stage_on_the_best_card() -> None:
    decision = HYDRA.decide(_asked(13, None, _node("a"), _node("b", nic=2 * CARD)))
    assert decision.chosen is not None
    assert decision.chosen.nodes == ("b",)


def test_one_node_must_have_room_for_all_and_the_others_for_their_share() -> None:
    nodes = (_node("a", device_bytes=7 * GIB), _node("b", device_bytes=14 * GIB), _node("c", device_bytes=6 * GIB))
    decision = HYDRA.decide(_asked(13, 7.5, *nodes))
    assert decision.chosen is not None
    assert set(decision.chosen.nodes) == {"a", "b"}
    assert isinstance(HYDRA.decide(_asked(13, 7.5, nodes[0], nodes[2])).outcome, NoPlacement)


def _fetching(question: Question, deadline_s: float) -> Question:
    question.links.begin([Transfer("t", ("nic:a",), 10.0 * GIB, deadline_s=deadline_s, queue="a")], 0.0)
    return question


def test_a_card_is_shared_equally_and_offers_nothing_that_would_make_another_late() -> None:
    """Of 16 Gbit/s a second fetch gets half; 10 GB take 10 s of it then."""
    in_time, late = (_fetching(_asked(13, 9.0, _node("a"), _node("b", nic=CARD / 4)), d) for d in (10.0, 9.9))
    chosen = [HYDRA.decide(question).chosen for question in (in_time, late)]
    assert [c.nodes for c in chosen if c is not None] == [("a",), ("b",)]


@pytest.mark.parametrize(("tier", "stages"), [("dram", 1), ("ssd", 2)])
def test_a_node_that_has_the_whole_model_in_memory_takes_it_alone(tier: str, stages: int) -> None:
    question = _asked(13, 7.5)
    held = replace(_node("warm", nic=CARD / 8), units={unit.digest: tier for unit in question.model.units})
    decision = HYDRA.decide(replace(question, view=View((*question.view.nodes, held))))
    assert decision.chosen is not None
    assert decision.chosen.degree == stages
    assert ("warm" in decision.chosen.nodes) == (tier == "dram")


def test_the_most_stages_that_the_operator_allows_bind_it_too() -> None:
    question = _asked(13, 7.5)
    decision = HYDRA.decide(replace(question, objectives=replace(question.objectives, max_degree=1)))
    assert decision.chosen is not None
    assert decision.chosen.degree == 1


# ---- HydraServe over slices


def test_stages_with_room_for_all_reserve_it_over_slices_and_only_there() -> None:
    question = _asked(13, 7.5)
    sliced, plain = SLICED.decide(question).outcome, HYDRA.decide(question).outcome
    assert isinstance(sliced, Placement)
    assert isinstance(plain, Placement)
    assert sorted(stage.reserve_bytes for stage in plain.stages) == [6.5e9, 6.5e9]
    assert sorted(stage.reserve_bytes for stage in sliced.stages) == [6.5e9, 13e9]
    assert [stage.weight_bytes for stage in sliced.stages] == [stage.weight_bytes for stage in plain.stages]


def test_a_fetch_is_to_end_two_seconds_before_the_first_token_is_wanted() -> None:
    chosen = SLICED.decide(_asked(13, 7.5, waited_s=1.0)).chosen
    assert chosen is not None
    assert {transfer.deadline_s for transfer in chosen.transfers} == {7.5 - 1.0 - 2.0}
    chosen = SLICED.decide(_asked(13, None)).chosen
    assert chosen is not None
    assert {transfer.deadline_s for transfer in chosen.transfers} == {None}


@pytest.mark.parametrize(
    ("deadline_s", "priority", "waits"), [(11.2, 0, False), (11.0, 0, True), (None, 0, False), (None, 2, True)]
)
def test_a_card_where_one_would_be_late_or_becomes_whole_gets_no_other_start(
    deadline_s: float | None, priority: int, waits: bool
) -> None:
    """10 GB over half a card take 10 s, as 11.1 GB 11.1."""
    question = _asked(13, 30.0, _node("a"))
    transfer = Transfer("t", ("nic:a",), 10.0 * GIB, priority, deadline_s, queue="a")
    question.links.begin([transfer], 0.0)
    assert isinstance(SLICED.decide(question).outcome, Wait if waits else Placement)


def test_what_is_in_memory_starts_whoever_fetches_there() -> None:
    question = _asked(13, 30.0, _node("a"))
    held = replace(question.view.nodes[0], units={unit.digest: "dram" for unit in question.model.units})
    question.links.begin([Transfer("t", ("nic:a",), 10.0 * GIB, deadline_s=0.0, queue="a")], 0.0)
    assert isinstance(SLICED.decide(replace(question, view=View((held,)))).outcome, Placement)


# ---- ServerlessLLM


def _holding(name: str, tier: str | None, **speeds: float) -> Node:
    model = model_of([10] * 4)
    units = {} if tier is None else {unit.digest: tier for unit in model.units}
    known = rates_of(**speeds) | {BUS: Rate(100.0, 100.0, 9)}
    return replace(node_of(name, 100, units=units), rates=known)


def _taken(*nodes: Node, links: Links | None = None) -> str:
    question = question_of(model_of([10] * 4), View(nodes), links=links)
    chosen = SLLM.decide(question).chosen
    assert chosen is not None
    assert chosen.degree == 1
    return chosen.nodes[0]


def test_dram_is_preferred_to_ssd_and_ssd_to_a_faster_network() -> None:
    nothing, ssd, dram = _holding("a", None, nic=1e6), _holding("b", "ssd"), _holding("c", "dram")
    assert _taken(nothing, ssd, dram) == "c"
    assert _taken(nothing, ssd) == "b"
    assert _taken(nothing) == "a"


def test_without_a_holder_the_node_with_the_most_spare_network_takes_it() -> None:
    assert _taken(_holding("a", None), _holding("b", None, nic=11.0)) == "b"


def test_the_faster_ssd_wins_and_among_equals_the_name() -> None:
    assert _taken(_holding("a", "ssd"), _holding("b", "ssd", ssd=21.0)) == "b"
    assert _taken(_holding("b", "ssd"), _holding("a", "ssd")) == "a"


def test_what_stands_in_the_queue_counts_for_ssd_and_not_for_dram() -> None:
    """40 bytes: 2 s from the ssd, behind 3 s of fetches; 5 s from the slower one. 0.4 s over the bus."""
    nodes = (_holding("a", "ssd"), _holding("b", "ssd", ssd=10.0), _holding("c", "dram"))
    links = Links(link_rates(View(nodes)), 0.0)
    links.begin([Transfer(f"t{n}", (f"nic:{n}",), 30.0, queue=n) for n in "ac"], 0.0)
    assert _taken(*nodes[:2], links=links) == "b"
    assert _taken(*nodes, links=links) == "c"


def test_a_holder_without_room_is_passed_over() -> None:
    full = replace(_holding("a", "dram"), device_reserved_bytes=61)
    assert _taken(full, _holding("b", "ssd")) == "b"
    outcome = SLLM.decide(question_of(model_of([10] * 4), View((full,)))).outcome
    assert isinstance(outcome, NoPlacement)
    assert "0.00 GB are free on no node" in outcome.reason


# ---- all of them


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_go_by_their_names_and_have_one_method(name: str) -> None:
    policy = POLICIES[name]
    decision = policy.decide(question_of(model_of([1] * 4), View((node_of("a", 100),))))
    assert policy.name == decision.policy == name
    assert isinstance(decision.outcome, Placement)


@pytest.mark.parametrize("name", sorted(ALL))
@given(data=st.data())
def test_no_policy_asks_a_node_for_more_than_it_has_nor_a_draining_one_nor_passes_the_bound(
    name: str, data: st.DataObject
) -> None:
    model = data.draw(models())
    view, goal = data.draw(measured_views(model)), data.draw(objectives())
    chosen = ALL[name].decide(question_of(model, view, goal)).chosen
    if chosen is None or chosen.placement is None:
        return
    for stage in chosen.placement.stages:
        node = view.node(stage.node)
        assert node is not None
        assert not node.draining
        assert stage.reserve_bytes <= node.device_free_bytes
    assert len({stage.node for stage in chosen.placement.stages}) == chosen.degree
    assert chosen.degree <= goal.max_degree or name == "planned"


@pytest.mark.parametrize("name", sorted(ALL))
def test_without_nodes_each_says_how_to_start_one(name: str) -> None:
    outcome = ALL[name].decide(question_of(model_of([1] * 4), View(()))).outcome
    assert isinstance(outcome, NoPlacement)
    assert "firsttoken node" in outcome.reason


def test_a_node_without_measured_speeds_is_no_error() -> None:
    bare = View((node_of("a", 100), node_of("b", 100)))
    for policy in POLICIES.values():
        chosen = policy.decide(question_of(model_of([10] * 4), bare)).chosen
        assert chosen is not None
        assert chosen.prediction is None
        assert DECODE not in bare.nodes[0].rates
