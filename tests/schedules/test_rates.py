"""Measured quantities: what is said of them, and whether a store limits."""

from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Rate
from schedules.rates import (
    BUS,
    DECODE,
    KEPT_SAMPLES,
    NIC,
    PART_S,
    PREFILL,
    REACH,
    SMALLEST_PART_BYTES,
    SSD,
    STORE,
    STREAM,
    Measured,
    as_rate,
    formed,
    formed_degree,
    is_duration,
    observe,
    part_bytes,
    store_limit,
    streams,
)

SPEEDS = (NIC, STREAM, SSD, BUS, DECODE, PREFILL, STORE)
DURATIONS = (REACH, formed(1), formed(16))
_RATES = st.dictionaries(st.sampled_from("abcdef"), st.floats(1.0, 1e12), max_size=6)


@pytest.mark.parametrize("name", SPEEDS)
def test_of_a_speed_the_slow_end_is_the_bad_one(name: str) -> None:
    assert not is_duration(name)
    assert as_rate(name, Measured((1.0, 3.0, 9.0))).bad == 1.0


@pytest.mark.parametrize("name", DURATIONS)
def test_of_a_duration_the_long_end_is_the_bad_one(name: str) -> None:
    assert is_duration(name)
    assert as_rate(name, Measured((1.0, 3.0, 9.0))).bad == 9.0


@given(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=100))
def test_a_rate_lies_within_what_was_seen_of_late(values: list[float]) -> None:
    known: dict[str, Measured] = {}
    for value in values:
        known = observe(known, NIC, value)
    rate, kept = as_rate(NIC, known[NIC]), values[-KEPT_SAMPLES:]
    assert rate.samples == len(kept)
    assert rate.bad in kept
    assert min(kept) * (1 - 1e-9) <= rate.mean <= max(kept) * (1 + 1e-9)


@pytest.mark.parametrize("name", [NIC, SSD, DECODE, PREFILL])
def test_one_slow_sample_does_not_make_slow_what_others_use_too(name: str) -> None:
    """The first was taken while the machine came up; the next ones beside others' work."""
    assert as_rate(name, Measured((1.0, 10.0))).mean == 10.0
    assert as_rate(name, Measured((1.0, 10.0, 10.0, 4.0, 10.0))).mean == 10.0


def test_what_is_no_measurement_is_left_out() -> None:
    assert observe({}, NIC, 0.0) == observe({}, NIC, -1.0) == {}
    assert as_rate(NIC, Measured((2.0,))) == Rate(2.0, 2.0, 1)


def test_each_degree_has_a_name_of_its_own() -> None:
    assert (formed(2), formed_degree(formed(12)), formed_degree(NIC)) == ("formed.2", 12, None)


@pytest.mark.parametrize(
    ("alone", "together", "limit"),
    [
        ({"a": 100.0, "b": 100.0}, {"a": 50.0, "b": 60.0}, 110.0),
        ({"a": 100.0, "b": 100.0}, {"a": 95.0, "b": 90.0}, None),
        ({"a": 100.0, "b": 100.0}, {"a": 300.0, "b": 300.0}, None),
        ({"a": 100.0, "b": 100.0, "c": 1.0}, {"a": 50.0, "b": 60.0}, 110.0),
        ({"a": 100.0}, {"a": 10.0}, None),
        ({"a": 100.0, "b": 100.0}, {"b": 10.0}, None),
        ({}, {}, None),
    ],
)
def test_a_store_limits_if_all_together_get_less_than_each_alone(
    alone: dict[str, float], together: dict[str, float], limit: float | None
) -> None:
    assert store_limit(alone, together) == limit


@given(_RATES, _RATES)
def test_what_a_store_gives_is_never_more_than_nodes_read_of_it(
    alone: dict[str, float], together: dict[str, float]
) -> None:
    limit = store_limit(alone, together)
    assert limit is None or 0 < limit <= fsum(together.values())


@pytest.mark.parametrize(
    ("nic", "stream", "wanted"),
    [(1e6, 1e6, 2), (25e6, 23e6, 3), (25e6, 3e6, 10), (1.25e9, 0.3e9, 125)],
    ids=["slow", "200 Mbit/s", "a store that holds every connection back", "10 Gbit/s"],
)
def test_a_slow_card_has_few_streams_and_no_fewer_than_use_it_up(nic: float, stream: float, wanted: int) -> None:
    assert streams({NIC: Rate(nic, nic, 1), STREAM: Rate(stream, stream, 1)}) == wanted


def test_what_can_wait_makes_way_soon_on_a_slow_card_and_is_not_cut_up_on_a_fast_one() -> None:
    for bytes_per_s in (1e5, 25e6, 1.25e9):
        rates = dict.fromkeys((NIC, STREAM), Rate(bytes_per_s, bytes_per_s, 1))
        at_once, part = streams(rates), part_bytes(rates)
        assert at_once is not None
        assert part is not None
        assert part == pytest.approx(max(SMALLEST_PART_BYTES, PART_S * bytes_per_s / at_once), abs=1)


@pytest.mark.parametrize("known", [(), (NIC,), (STREAM,)])
def test_who_does_not_know_its_network_leaves_it_as_it_is(known: tuple[str, ...]) -> None:
    rates = dict.fromkeys(known, Rate(1e6, 1e6, 1))
    assert streams(rates) is None
    assert part_bytes(rates) is None
