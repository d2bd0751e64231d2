"""Stages on one GPU take turns, and what they compute on came over one bus: a model is not spread over it for nothing."""

from dataclasses import replace

import pytest

from schedules.facts import Model, Node, View
from schedules.placing.candidates import candidate
from schedules.placing.decision import Decision, Question
from schedules.placing.policies.planned import Planned
from schedules.placing.survey import Survey
from schedules.rates import BUS, Rate, formed
from tests.schedules.models import model_of, node_of, question_of, rates_of
from tests.told import objectives_of

MODEL = model_of([0, 100, 100, 100, 100, 0])
IN_DRAM = {unit.digest: "dram" for unit in MODEL.units}
BUS_RATE = {BUS: Rate(100.0, 100.0, 9), formed(2): Rate(0.5, 0.5, 9)}


def _node(name: str, gpu: str, units: dict[str, str], *, measured: bool = True, **speeds: float) -> Node:
    rates = rates_of(**speeds) | BUS_RATE if measured else {}
    return replace(node_of(name, 10**9, units=units), gpu=gpu, rates=rates)


def _question(model: Model, *nodes: Node, degree: int = 4) -> Question:
    return question_of(model, View(nodes), objectives_of(max_degree=degree, kv_tokens=1))


def _decide(*nodes: Node, degree: int = 4) -> Decision:
    return Planned().decide(_question(MODEL, *nodes, degree=degree))


def _ttft_s(*nodes: Node) -> float:
    found = candidate(Survey(_question(MODEL, *nodes)), len(nodes), nodes)
    assert found.prediction is not None
    return found.prediction.ttft_s


def test_what_is_in_dram_goes_over_the_bus_one_unit_after_the_other() -> None:
    """Each unit was taken to have the bus for itself: 400 bytes at 100 a second were there after a second."""
    assert _ttft_s(_node("a", "gpu a", IN_DRAM)) == pytest.approx(4.0, abs=0.01)


def test_two_gpus_have_two_buses_and_one_has_one() -> None:
    a, b, beside = (_node(name, gpu, IN_DRAM) for name, gpu in (("a", "gpu a"), ("b", "gpu b"), ("c", "gpu a")))
    assert _ttft_s(a, b) == pytest.approx(2.0, abs=0.01)
    assert _ttft_s(a, beside) == pytest.approx(4.0, abs=0.01)


def test_the_time_of_a_token_is_the_same_however_a_gpu_is_shared_out() -> None:
    a, beside = _node("a", "gpu", IN_DRAM, decode=100.0), _node("b", "gpu", IN_DRAM, decode=100.0)
    tpot_s = []
    for nodes in ([a], [a, beside]):
        found = candidate(Survey(_question(MODEL, *nodes)), len(nodes), nodes)
        assert found.prediction is not None
        tpot_s.append(found.prediction.tpot_s)
    assert tpot_s == [4.0, 4.0]


@pytest.mark.parametrize("measured", [True, False])
def test_no_two_stages_are_put_on_one_gpu_for_nothing(*, measured: bool) -> None:
    """Where nothing was measured the largest degree that fits was taken, on one GPU too."""
    nodes = [_node(name, "gpu", IN_DRAM, measured=measured) for name in "abcd"]
    chosen = _decide(*nodes).chosen
    assert chosen is not None
    assert chosen.degree == 1


def test_where_nothing_was_measured_as_many_gpus_are_used_as_there_are_and_no_gpu_twice() -> None:
    nodes = [_node(f"{gpu}{i}", gpu, {}, measured=False) for gpu in ("x", "y") for i in range(2)]
    chosen = _decide(*nodes).chosen
    assert chosen is not None
    assert sorted(name[0] for name in chosen.nodes) == ["x", "y"]


def test_of_nodes_that_are_alike_one_on_another_gpu_comes_before_one_beside() -> None:
    """Over a network so slow that the bus does not matter: the second stage may go anywhere."""
    nodes = [_node(name, gpu, {}, nic=0.1) for name, gpu in (("a", "x"), ("b", "x"), ("c", "y"))]
    found = candidate(Survey(_question(MODEL, *nodes)), 2)
    assert sorted(found.nodes) in (["a", "c"], ["b", "c"])


def test_two_nodes_share_a_gpu_where_each_has_the_bytes_of_its_stage() -> None:
    half = [{unit.digest: "dram" for unit in units} for units in (MODEL.units[:3], MODEL.units[3:])]
    chosen = _decide(_node("a", "gpu", half[0]), _node("b", "gpu", half[1])).chosen
    assert chosen is not None
    assert chosen.nodes == ("a", "b")


def test_nodes_without_a_gpu_are_spread_over_as_before() -> None:
    nodes = [replace(_node(name, "", {}, measured=False), rates={}) for name in "abcd"]
    chosen = _decide(*nodes).chosen
    assert chosen is not None
    assert chosen.degree == 4


def test_a_slower_bus_of_its_own_comes_before_half_of_a_faster_one_and_not_before_a_whole_one() -> None:
    """200 bytes are copied in 2 s, in 4 s by the second stage there, and in 3 s on the other."""
    slower = {BUS: Rate(66.0, 66.0, 9)}
    a, beside, other = (_node(name, gpu, IN_DRAM) for name, gpu in (("a", "x"), ("b", "x"), ("c", "y")))
    other = replace(other, rates=other.rates | slower)
    found = candidate(Survey(_question(MODEL, a, beside, other)), 2)
    assert set(found.nodes) == {"a", "c"}
    assert candidate(Survey(_question(MODEL, a, other)), 1).nodes == ("a",)
    assert candidate(Survey(_question(MODEL, other, replace(a, name="d"))), 1).nodes == ("d",)
