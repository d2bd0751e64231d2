"""What of a cluster was used, minute by minute."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.simulation.play import play
from schedules.systems.system import OURS, Keeps
from schedules.world.usage import Level, Minutes
from tests.schedules.test_play import SCENARIO
from tests.schedules.worlds import MB


def test_what_came_over_several_minutes_counts_in_each_by_its_share() -> None:
    minutes = Minutes(begin_s=10.0)
    minutes.spread(300.0, 40.0, 190.0)
    assert minutes.amounts(4) == pytest.approx([60.0, 120.0, 120.0, 0.0])


def test_what_was_before_the_begin_does_not_count_and_what_came_at_once_does() -> None:
    minutes = Minutes(begin_s=100.0)
    minutes.spread(10.0, 0.0, 90.0)
    minutes.spread(40.0, 90.0, 110.0)
    minutes.spread(7.0, 120.0, 120.0)
    assert minutes.amounts(1) == pytest.approx([27.0])


def test_a_level_is_bytes_times_seconds() -> None:
    level = Level(begin_s=0.0)
    level.change(10, 30.0)
    level.change(-4, 90.0)
    assert level.amounts(3, 130.0) == pytest.approx([300.0, 300.0 + 180.0, 60.0])


def test_a_play_says_what_was_used_of_its_cluster_in_each_minute() -> None:
    played = play(SCENARIO)
    used = played.by_minute
    assert len(used.card_bytes) == int(np.ceil(played.lasted_s / 60.0)) == len(used.dram_byte_s)
    assert used.card_bytes.sum() == pytest.approx(played.moved_bytes["remote"])
    assert used.card_bytes == pytest.approx(used.store_bytes)
    assert used.device_reserved_byte_s.sum() == pytest.approx(played.cost_byte_s.sum(), rel=0.05)
    assert (used.device_reserved_byte_s <= 3 * 400 * MB * 60.0).all()
    assert 0 < played.dram_byte_s <= 3 * 60 * MB * played.lasted_s


def test_dram_that_keeps_nothing_holds_units_as_long_as_they_are_in_use() -> None:
    kept = play(SCENARIO)
    lost = play(replace(SCENARIO, system=replace(OURS, keeps=Keeps(dram=False))))
    assert 0 < lost.dram_byte_s < 0.8 * kept.dram_byte_s
