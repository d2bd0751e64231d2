"""What single starts and requests say of how fast things are."""

from dataclasses import replace
from typing import Any

import pytest

from schedules.estimates import Speeds
from schedules.fitting.robust import sum_up
from schedules.fitting.samples import Of, Sample, held_at_first, hops, samples
from schedules.fitting.seen import Began, Fetch, FirstStep, Happened, matched
from schedules.traces.happened import Asked
from tests.schedules.worlds import MB, world_model

MODEL = world_model("llama")
MODELS = {"llama": MODEL}
MACHINES = {"n0": "m", "n1": "m", "n2": "n2"}


def start(node: str, *fetches: Fetch, at_s: float = 100.0, **fields: Any) -> Began:
    """Ordered half a second after its request came."""
    return replace(Began("llama", (node,), at_s, at_s + 0.5, 2.0, fetches=fetches), **fields)


def fetch(node: str, begun_s: float, ended_s: float, source: str = "remote", size_bytes: int = 10 * MB) -> Fetch:
    return Fetch(node, "layer.0000", source, size_bytes, begun_s, ended_s)


def found(*starts: Began, asked: tuple[Asked, ...] = ()) -> dict[Of, list[Sample]]:
    return samples(Happened(0.0, 1e6, starts, asked), MODELS, MACHINES)


def test_what_comes_at_one_time_shares_the_card_and_what_comes_later_is_another_sample() -> None:
    one = start("n0", fetch("n0", 101.0, 103.0), fetch("n0", 101.5, 104.0, "peer"))
    other = start("n0", fetch("n0", 103.0, 105.0), fetch("n0", 110.0, 111.0))
    assert found(one, other)[Of("n0", "nic")] == [Sample(101.0, 30 * MB / 4.0), Sample(110.0, 10 * MB)]


def test_nodes_of_one_machine_share_its_ssd() -> None:
    one, other = start("n0", fetch("n0", 101.0, 103.0, "ssd")), start("n1", fetch("n1", 102.0, 105.0, "ssd"))
    both = found(one, other)
    assert both[Of("n0", "ssd")] == both[Of("n1", "ssd")] == [Sample(101.0, 20 * MB / 4.0)]
    assert found(start("n2", fetch("n2", 1.0, 2.0, "ssd")))[Of("n2", "ssd")] == [Sample(1.0, 10 * MB)]


def test_what_was_there_or_is_small_says_nothing_of_a_wire() -> None:
    there, small = fetch("n0", 101.0, 101.1, "dram", 0), fetch("n0", 101.0, 101.2, "remote", 1000)
    assert not found(start("n0", there, small))


def test_forming_counts_from_the_order_and_only_by_clocks_that_agree() -> None:
    formed = start("n0", formed_s=101.25)
    assert found(formed) == {Of("n0", "formed.1"): [Sample(100.0, 0.75)]}
    assert found(replace(formed, nodes=("n0", "n2"))).keys() == {Of("n0", "formed.2"), Of("n2", "formed.2")}
    assert not found(replace(formed, one_clock=False), replace(formed, formed_s=100.4))


def test_a_long_answer_says_how_fast_weights_are_read_and_a_long_prompt_how_fast_it_is_computed() -> None:
    begun = start("n0", steps=(FirstStep("n0", 0.5),))
    asked = Asked("llama", 100.01, 20, 64, 11, False, 2.0, 3.0, True)
    assert found(begun, asked=(asked,)) == {
        Of("n0", "decode"): [Sample(100.0, MODEL.size_bytes / 0.1)],
        Of("n0", "prefill"): [Sample(100.0, MODEL.size_bytes * 20 / 0.5)],
    }
    for short in (asked._replace(answer_tokens=5, prompt_tokens=3), asked._replace(at_s=101.0)):
        assert not found(begun, asked=(short,))


def test_a_pipeline_says_how_long_a_hop_is() -> None:
    speeds = Speeds(1e8, 1e8, float("inf"), 1e9, 1e12, 0.0, {1: 0.1})
    begun = start("n0", nodes=("n0", "n2"))
    asked = (Asked("llama", 100.0, 1, 64, 11, False, 2.0, 3.0, True),)
    happened = Happened(0.0, 1e6, (begun,), asked)
    (hop,) = hops(happened, MODELS, {"n0": speeds, "n2": speeds})
    assert hop.value == pytest.approx((0.1 - MODEL.size_bytes / 1e9) / 2)
    assert not hops(happened, MODELS, {"n0": speeds})


def test_what_came_from_its_own_tiers_first_was_there_before() -> None:
    units = {unit.name: unit.digest for unit in MODEL.units}
    first = start("n0", Fetch("n0", "embed", "ssd", 9, 1.0, 2.0), Fetch("n0", "head", "remote", 9, 1.0, 2.0))
    later = start("n0", Fetch("n0", "embed", "dram", 0, 3.0, 3.0), Fetch("n0", "head", "ssd", 9, 3.0, 4.0))
    other = start(
        "n1", Fetch("n1", "embed", "dram", 0, 3.0, 3.0), Fetch("n1", "of another version", "ssd", 9, 3.0, 4.0)
    )
    held = held_at_first(Happened(0.0, 1e6, (first, later, other), ()), MODELS)
    assert held == {"n0": {units["embed"]: "ssd"}, "n1": {units["embed"]: "dram"}}


def test_a_start_is_matched_to_the_request_of_its_model_that_came_with_it() -> None:
    asked = [Asked("qwen", 100.0, 1, 1, 1), Asked("llama", 99.95, 1, 1, 1), Asked("llama", 100.02, 1, 1, 1)]
    assert matched([start("n0"), start("n0", at_s=200.0)], asked) == {0: 2}


def test_odd_samples_are_counted_and_not_believed_and_the_newest_weigh_most() -> None:
    even = [Sample(float(i), 100.0 + i % 3) for i in range(40)]
    summed = sum_up([*even, Sample(41.0, 1e4), Sample(42.0, 1.0)])
    assert summed.value == pytest.approx(101.0, abs=0.5)
    assert (summed.samples, summed.outliers) == (40, 2)
    assert summed.spread == pytest.approx(0.02, abs=0.01)
    steps = [Sample(float(i), 100.0 if i < 64 else 120.0) for i in range(100)]
    assert sum_up(steps).value == pytest.approx(120.0, abs=1.0)
    assert sum_up([Sample(0.0, 5.0)]).value == 5.0
    assert sum_up([Sample(0.0, -0.1), Sample(1.0, 0.0), Sample(2.0, 0.1)]).value == pytest.approx(0.0, abs=0.05)
