"""A scenario that is played with plans: who knows what comes has it at hand."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.forecasters.oracle import Oracle
from schedules.simulation.outcomes import Found
from schedules.simulation.play import play
from schedules.simulation.scenario import Scenario
from schedules.systems.prewarming import BUDGETS, KEEP_ALIVE, LRU, NOTHING, compared, foreseeing
from schedules.systems.prewarms import Prewarms
from schedules.systems.system import OURS
from tests.schedules.test_play import SCENARIO
from tests.told import budgets_of

KNOWING = replace(
    OURS,
    prewarms=Prewarms(
        Oracle(SCENARIO.trace),
        budgets_of(dram_share=1.0, ssd_share=1.0, device_share=1.0),
        every_s=30.0,
        horizon_s=120.0,
    ),
)


def _device(scenario: Scenario) -> float:
    return play(scenario).found_in()[Found.DEVICE]


def test_who_knows_what_comes_has_it_up_before_and_is_the_same_each_time() -> None:
    known = replace(SCENARIO, system=KNOWING)
    one, other = play(known), play(known)
    assert one.found_in()[Found.DEVICE] > _device(SCENARIO) + 0.05
    assert np.array_equal(one.ttft_s, other.ttft_s)
    assert any(start.behind and start.arrived_s is None for start in one.starts)


def test_every_request_found_its_model_somewhere_and_a_cold_one_not_on_an_accelerator() -> None:
    played = play(replace(SCENARIO, system=NOTHING))
    assert (played.found[played.cold] > Found.DEVICE).all()
    assert (played.found[~played.cold] == Found.DEVICE).all()
    shares = played.found_in()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares[Found.REMOTE] > 0.0
    assert shares[Found.DRAM] == shares[Found.SSD] == shares[Found.NOWHERE] == 0.0
    last = played.found_in(len(played) - 1)
    assert last[Found(int(played.found[-1]))] == 1.0


def test_a_request_that_nobody_served_found_nothing() -> None:
    played = play(replace(SCENARIO, patience_s=0.3))
    assert (played.found[np.isnan(played.ttft_s)] == Found.NOWHERE).all()
    assert np.isnan(played.ttft_s).any()


def test_what_is_kept_longer_is_found_nearer() -> None:
    nothing, fixed, until_needed = (_device(replace(SCENARIO, system=each)) for each in (NOTHING, KEEP_ALIVE, LRU))
    assert nothing < fixed <= until_needed


def test_all_that_are_compared_are_played_with_the_same_memory_and_other_names() -> None:
    systems = compared(SCENARIO.trace)
    assert len({system.name for system in systems}) == len(systems) == 7
    foresee = [system for system in systems if system.prewarms is not None]
    assert {system.prewarms.budgets for system in foresee if system.prewarms is not None} == {BUDGETS}
    assert {(system.policy, system.consolidate, system.peers) for system in systems} == {
        (OURS.policy, OURS.consolidate, OURS.peers)
    }
    assert foreseeing(FORECASTERS["tsb"]).name == "tsb"


@pytest.mark.parametrize(("every_s", "horizon_s"), [(0.0, 900.0), (300.0, 90.0), (300.0, 0.0)])
def test_plans_are_made_every_so_often_and_for_whole_minutes(every_s: float, horizon_s: float) -> None:
    with pytest.raises(ValueError, match=r"cannot be made|whole minutes"):
        Prewarms(FORECASTERS["tsb"], BUDGETS, every_s, horizon_s)
