"""What a world brings before anybody asks for it, and what makes room for it."""

import pytest

from schedules.events import GroupFormed
from schedules.facts import Node
from schedules.foresight.plan import Staging
from schedules.foresight.retention import BY_USE, Retention
from schedules.world.habits import Misfortune
from tests.schedules.seen import MODEL, A, B, Seen
from tests.schedules.worlds import MB, placed, world_model, world_node

OTHER = world_model("other")
NAMES = tuple(unit.name for unit in MODEL.units)
UNIT_BYTES, UNIT_S = 10 * MB, 0.1
"""Of the store's 100 MB/s."""


def _staging(
    node: Node, model: str = "m", tier: str = "dram", units: tuple[str, ...] = NAMES, source: str = "remote"
) -> Staging:
    key = {"m": MODEL, "other": OTHER}[model].key
    return Staging(node.name, key, units, tier, UNIT_BYTES * len(units), source, 0.0, 1.0, "as it is")


def _in(seen: Seen, node: str) -> dict[str, str]:
    return dict(next(each.units for each in seen.world.view().nodes if each.name == node))


def test_units_come_one_after_the_other_in_their_order_and_count_by_whence() -> None:
    seen = Seen()
    seen.world.stage([_staging(A)], 0.0)
    seen.until(2.5 * UNIT_S)
    assert list(_in(seen, "a")) == ["m/embed", "m/layer.0000"]
    seen.until(2.0)
    assert set(_in(seen, "a").values()) == {"dram"}
    assert len(_in(seen, "a")) == len(NAMES)
    assert seen.world.moved_bytes == {"remote": 6 * UNIT_BYTES}
    assert seen.world.by_minute(2.0).store_bytes.sum() == pytest.approx(6 * UNIT_BYTES)


def test_what_comes_to_ssd_is_not_in_dram_and_comes_from_there_later() -> None:
    seen = Seen()
    seen.world.stage([_staging(A, tier="ssd")], 0.0)
    seen.until(2.0)
    assert set(_in(seen, "a").values()) == {"ssd"}
    seen.world.stage([_staging(A), _staging(A, tier="ssd")], 2.0)
    seen.until(4.0)
    assert set(_in(seen, "a").values()) == {"dram"}
    assert seen.world.moved_bytes == {"remote": 6 * UNIT_BYTES, "ssd": 6 * UNIT_BYTES}


def test_a_peer_that_has_it_gives_it() -> None:
    seen = Seen()
    seen.world.bring("b", MODEL.units, "dram", 0.0)
    seen.world.stage([_staging(A, source="peer")], 0.0)
    seen.until(2.0)
    assert seen.world.moved_bytes == {"peer": 6 * UNIT_BYTES}


def test_a_start_is_not_held_up_by_what_is_staged_beside_it() -> None:
    alone, beside = Seen(models=(MODEL, OTHER)), Seen(models=(MODEL, OTHER))
    beside.world.stage([_staging(A, "other"), _staging(B, "other")], 0.0)
    for seen in (alone, beside):
        seen.until(0.25 * UNIT_S)
        seen.form(A, now_s=0.25 * UNIT_S)
        seen.ask("r", 0.25 * UNIT_S)
        seen.until(5.0)
    assert beside.tokens("r")[0] == pytest.approx(alone.tokens("r")[0], rel=0.01)
    assert len(_in(beside, "a")) == 12


def test_a_start_joins_what_is_on_its_way_and_brings_the_rest_itself() -> None:
    seen = Seen()
    seen.world.stage([_staging(A)], 0.0)
    seen.until(1.5 * UNIT_S)
    seen.form(A, now_s=1.5 * UNIT_S)
    seen.ask("r", 1.5 * UNIT_S)
    seen.until(5.0)
    assert seen.world.moved_bytes == {"remote": 6 * UNIT_BYTES}
    assert seen.tokens("r")[0] < 6.5 * UNIT_S + 0.1
    times = seen.world.times("g")
    assert times is not None
    assert times.found == "remote"


def test_who_starts_where_all_was_staged_found_it_in_dram() -> None:
    seen = Seen()
    seen.world.stage([_staging(A)], 0.0)
    seen.until(2.0)
    seen.form(A, now_s=2.0)
    seen.until(4.0)
    times = seen.world.times("g")
    assert times is not None
    assert (times.found, times.whence) == ("dram", "dram")


def test_the_next_takes_the_place_of_what_has_not_begun() -> None:
    seen = Seen(models=(MODEL, OTHER))
    seen.world.stage([_staging(A)], 0.0)
    seen.until(1.5 * UNIT_S)
    seen.world.stage([_staging(A, "other")], 1.5 * UNIT_S)
    seen.until(3.0)
    assert sorted(_in(seen, "a")) == sorted(["m/embed", "m/layer.0000", *OTHER.digests])


def test_to_a_node_that_is_gone_and_of_a_model_that_nobody_knows_nothing_comes() -> None:
    seen = Seen()
    seen.world.stage([_staging(A, "other"), _staging(A), _staging(B)], 0.0)
    seen.world.befall(Misfortune.NODE_LOST, "a", seen.until(1.5 * UNIT_S))
    seen.until(2.0)
    seen.world.befall(Misfortune.NODE_BACK, "a", 2.0)
    seen.until(4.0)
    assert sorted(_in(seen, "a")) == ["m/embed"]  # on its ssd
    assert len(_in(seen, "b")) == len(NAMES)
    seen.world.stage([_staging(A)], 4.0)
    seen.until(6.0)
    assert len(_in(seen, "a")) == len(NAMES)


# ---- room


def _small() -> Seen:
    """Room for one and a half of the models, in each tier."""
    node = world_node("a")
    return Seen(
        Node(**{**node.__dict__, "dram_bytes": 9 * UNIT_BYTES, "ssd_bytes": 9 * UNIT_BYTES}), models=(MODEL, OTHER)
    )


def test_what_is_worth_least_makes_room_whenever_it_was_used() -> None:
    seen = _small()
    seen.world.bring("a", MODEL.units, "dram", 0.0)
    worth = Retention(dict.fromkeys(MODEL.digests, 2.0) | dict.fromkeys(OTHER.digests, 1.0))
    seen.world.retain("a", worth, worth)
    seen.world.bring("a", OTHER.units, "dram", 1.0)
    assert set(MODEL.digests) <= _in(seen, "a").keys()
    assert len(_in(seen, "a")) == 9
    seen.world.retain("a", BY_USE, BY_USE)
    seen.world.bring("a", OTHER.units, "dram", 2.0)
    assert set(OTHER.digests) <= _in(seen, "a").keys()


def test_what_comes_to_dram_goes_to_ssd_only_if_it_is_worth_it_there() -> None:
    seen = _small()
    seen.world.bring("a", MODEL.units, "ssd", 0.0)
    seen.world.retain("a", BY_USE, Retention(dict.fromkeys(MODEL.digests, 2.0)))
    seen.world.bring("a", OTHER.units, "dram", 1.0)
    assert [_in(seen, "a")[digest] for digest in MODEL.digests] == ["ssd"] * 6
    assert [_in(seen, "a")[digest] for digest in OTHER.digests] == ["dram"] * 6


def test_what_is_in_use_stays_however_little_it_is_worth() -> None:
    seen = _small()
    seen.form(A)
    seen.until(2.0)
    seen.world.retain("a", Retention(dict.fromkeys(OTHER.digests, 1.0)), BY_USE)
    seen.world.bring("a", OTHER.units, "dram", 2.0)
    assert [_in(seen, "a")[digest] for digest in MODEL.digests] == ["dram"] * 6


# ---- hurry


def test_a_group_that_comes_behind_is_formed_as_others_are_once_somebody_waits() -> None:
    def formed_s(hurried: bool) -> float:
        seen = Seen()
        seen.world.form("g", MODEL.key, placed(MODEL, A), 60.0, 0.0, behind=True)
        seen.world.stage([_staging(B)], 0.0)
        if hurried:
            seen.world.hurry("g", seen.until(0.1))
            seen.world.hurry("g", 0.1)
        seen.until(10.0)
        return seen.when(GroupFormed)

    assert formed_s(True) == pytest.approx(0.5, abs=0.01)
    assert formed_s(False) == pytest.approx(0.6, abs=0.01)


def test_one_that_was_built_already_is_formed_at_once_and_one_that_has_all_or_is_not_there_goes_on() -> None:
    seen = Seen()
    seen.world.form("g", MODEL.key, placed(MODEL, A), 60.0, 0.0, behind=True)
    seen.world.hurry("g", seen.until(0.55))
    seen.world.hurry("nobody", 0.55)
    seen.until(3.0)
    assert seen.when(GroupFormed) == pytest.approx(0.55, abs=0.01)
    seen.world.hurry("g", 3.0)
    seen.until(4.0)
    assert seen.when(GroupFormed) == pytest.approx(0.55, abs=0.01)
