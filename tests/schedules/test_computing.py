"""What stages of the world compute, and when: by layer as it comes, so many prompts in a step, on so many cores."""

from dataclasses import replace

import pytest

from schedules.systems.system import Startup
from schedules.world.habits import Habits
from tests.schedules.seen import Seen
from tests.schedules.worlds import MB, world_model, world_node

A, B = world_node("a"), world_node("b")
LAYER_S, STEP_S, SOON_S = 10 * MB / 1e10, 60 * MB / 1e10, 0.0005


def test_of_a_start_by_layer_only_the_last_unit_is_computed_after_the_last_byte() -> None:
    """Six units of 10 MB over a card of 100 MB/s."""
    seen = Seen(startup=Startup(by_layer=True))
    seen.form(A)
    seen.ask("r", 0.0)
    seen.until(2.0)
    assert seen.tokens("r")[:2] == pytest.approx([0.6 + LAYER_S, 0.6 + LAYER_S + STEP_S], abs=SOON_S)


def test_the_second_stage_computes_all_of_its_layers_after_the_first_ones_last() -> None:
    """Both have their last byte after 0.3 s, long before they are formed if that takes a second, and right after it else."""
    hop_s = 0.01
    seen = Seen(habits=Habits(hop_s=hop_s), startup=Startup(by_layer=True))
    seen.form(A, B)
    seen.ask("r", 0.0)
    seen.until(2.0)
    assert seen.tokens("r")[0] == pytest.approx(0.6 + STEP_S + 2 * hop_s, abs=SOON_S)
    slow = replace(B, rates=dict(B.rates) | {"nic": replace(B.rates["nic"], mean=20.0 * MB)})
    seen = Seen(A, slow, habits=Habits(hop_s=hop_s), startup=Startup(by_layer=True))
    seen.form(A, slow)
    seen.ask("r", 0.0)
    seen.until(3.0)
    assert seen.tokens("r")[0] == pytest.approx(1.5 + LAYER_S + 2 * hop_s, abs=SOON_S)


def test_a_tail_comes_after_what_a_start_by_layer_computes() -> None:
    seen = Seen(startup=Startup(tail_s=0.25, by_layer=True))
    seen.form(A)
    seen.ask("r", 0.0)
    seen.until(2.0)
    assert seen.tokens("r")[:2] == pytest.approx([0.85 + LAYER_S, 0.85 + LAYER_S + STEP_S], abs=SOON_S)


def test_who_comes_while_the_first_step_waits_for_bytes_is_in_the_next_one() -> None:
    seen = Seen(startup=Startup(by_layer=True))
    seen.form(A)
    seen.ask("first", 0.0)
    seen.until(0.55)
    seen.ask("later", 0.55)
    seen.until(2.0)
    assert seen.tokens("first")[0] == pytest.approx(0.6 + LAYER_S, abs=SOON_S)
    assert seen.tokens("later")[0] == pytest.approx(0.6 + LAYER_S + STEP_S, abs=SOON_S)


def test_a_start_whose_only_request_goes_while_it_fetches_is_there_for_the_next() -> None:
    seen = Seen(startup=Startup(by_layer=True))
    seen.form(A)
    seen.ask("gone", 0.0)
    seen.until(0.55)
    seen.world.cancel("gone", 0.55)
    seen.until(1.0)
    seen.ask("next", 1.0)
    seen.until(2.0)
    assert not seen.tokens("gone")
    assert seen.tokens("next")[0] == pytest.approx(1.0 + STEP_S, abs=SOON_S)


@pytest.mark.parametrize(("gpu", "steps"), [("", 3), ("gpu", 1)], ids=["on a CPU", "on a GPU"])
def test_prompts_beside_those_who_decode_are_taken_in_step_by_step(gpu: str, steps: int) -> None:
    """Six of 100 tokens: no step takes more than 256 on a CPU, 1024 on a GPU."""
    node = replace(A, gpu=gpu)
    seen = Seen(node)
    seen.form(node)
    seen.ask("decodes", 0.0, tokens=100)
    seen.until(0.7)
    for index in range(6):
        seen.ask(f"r{index}", 0.7, prompt=100)
    seen.until(2.0)
    assert len({round(seen.tokens(f"r{index}")[0], 3) for index in range(6)}) == steps


def test_a_prompt_that_is_too_much_for_a_step_is_taken_in_alone() -> None:
    seen = Seen()
    seen.form(A)
    seen.ask("decodes", 0.0, tokens=400)
    seen.until(1.0)
    seen.ask("long", 1.0, prompt=400)
    seen.ask("short", 1.0, prompt=10)
    seen.until(2.0)
    assert 1.0 < seen.tokens("long")[0] < seen.tokens("short")[0]


@pytest.mark.parametrize(("machine", "times"), [("one", 2.0), ("", 1.0)], ids=["of one machine", "of their own"])
def test_steps_of_nodes_that_share_a_core_take_turns(machine: str, times: float) -> None:
    nodes = [replace(node, machine=machine) for node in (A, B)]
    models = [world_model("m"), world_model("n")]
    seen = Seen(*nodes, models=models, habits=Habits(cores=1.0))
    for node, model in zip(nodes, models, strict=True):
        seen.form(node, name=model.name, model=model)
    seen.until(1.0)
    for model in models:
        seen.ask(f"of {model.name}", 1.0, tokens=40, name=model.name)
    seen.until(4.0)
    for model in models:
        told_s = seen.tokens(f"of {model.name}")
        assert (told_s[20] - told_s[10]) / 10 == pytest.approx(times * STEP_S, rel=0.01)
