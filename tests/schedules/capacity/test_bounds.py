"""What is known of a question before anything is played."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.capacity.bounds import enough_machines, fewest_machines, lost_anyway, stages_needed
from schedules.facts import Rate, Widths
from schedules.rates import BUS
from schedules.simulation.scenario import Offered
from schedules.systems.system import OURS, Startup
from tests.schedules.capacity.small import WANTED, asked, machine
from tests.schedules.worlds import MB, world_model

SPREAD = replace(WANTED, max_degree=4)
OFFERED = Offered(world_model("one"), SPREAD)


@pytest.mark.parametrize(("device_mb", "stages"), [(62, 1), (61, 2), (31, 2), (30, 3), (21, 3), (20, None)])
def test_a_model_is_held_in_as_few_stages_as_have_room_for_its_units_and_its_cache(
    device_mb: int, stages: int | None
) -> None:
    """It has four layers of 10 MB between an embedding and a head of as much, and 1 MB of KV cache."""
    assert stages_needed(OFFERED, machine(device_bytes=device_mb * MB)) == stages


def test_nobody_plans_to_spread_a_model_further_than_is_wanted() -> None:
    one = replace(OFFERED, objectives=replace(SPREAD, max_degree=2))
    assert stages_needed(one, machine(device_bytes=31 * MB)) == 2
    assert stages_needed(one, machine(device_bytes=30 * MB)) is None


def test_a_process_and_what_is_computed_need_room_as_well_on_a_gpu() -> None:
    kind = machine(device_bytes=62 * MB)
    assert stages_needed(OFFERED, replace(kind, context_bytes=2 * MB)) == 2
    wide = Offered(replace(OFFERED.model, widths=Widths(64, 256, 192, 1000, 2)), SPREAD)
    on_gpu = replace(kind, rates={**kind.rates, BUS: Rate(1e9, 1e9, 1)})
    assert stages_needed(wide, kind) == 1
    assert stages_needed(wide, on_gpu) is None


def test_machines_are_as_many_as_hold_what_enough_requests_are_for() -> None:
    question = asked(machine(device_bytes=40 * MB), objectives=SPREAD)
    large = replace(question.models[0], model=world_model("large", layers=8))
    share = float((question.trace.model == 0).mean())
    mixed = replace(question, models=(large, *question.models[1:]))
    kind = question.choices.types[0]
    assert fewest_machines(kind, question) == 2
    assert fewest_machines(replace(kind, nodes=2), question) == 1
    assert fewest_machines(kind, replace(mixed, attainment=1.0 - share)) == 2
    assert fewest_machines(kind, replace(mixed, attainment=1.0 - share / 2)) == 4
    assert fewest_machines(machine(device_bytes=5 * MB), question) is None


def test_it_takes_machines_for_what_is_computed_and_for_what_is_held() -> None:
    question = asked(models=12, attainment=0.9)
    in_ten_s = np.unique(question.trace.at_s // 10 * 12 + question.trace.model) // 12
    at_half = np.median(np.bincount(in_ten_s.astype(int), minlength=30))
    room = asked(machine(device_bytes=61 * MB), models=12)
    assert enough_machines(room.choices.types[0], room) == np.ceil(at_half * 61_024_000 / (61 * MB)) > 2
    slow = machine(prefill=1e9, device_bytes=10_000 * MB)
    tokens = int((question.trace.prompt_tokens + question.trace.answer_tokens).sum())
    assert enough_machines(slow, question) == np.ceil(tokens * 60e6 / 1e9 / 300)


def test_only_what_is_late_on_any_machine_is_lost() -> None:
    question = asked(machine("slow", formed=3.0), machine("fast", formed=0.5), objectives=replace(WANTED, ttft_s=1.0))
    assert not lost_anyway(question).which.any()
    slower = replace(question, system=replace(OURS, startup=Startup(tail_s=0.6)))
    assert lost_anyway(slower).first.sum() == 6
    assert lost_anyway(slower).first[0]


def test_who_has_replicas_up_from_the_begin_loses_no_first_request() -> None:
    late = replace(WANTED, ttft_s=0.1)
    assert lost_anyway(asked(objectives=late)).first.sum() == 6
    assert lost_anyway(asked(objectives=replace(late, min_replicas=1))).first.sum() == 0


def test_an_answer_of_one_token_is_never_slow() -> None:
    question = asked(objectives=replace(WANTED, tpot_s=0.001))
    ones = np.ones(len(question.trace), np.int32)
    assert lost_anyway(question).tokens.all()
    assert not lost_anyway(replace(question, trace=question.trace.after("cut", answer_tokens=ones))).tokens.any()
