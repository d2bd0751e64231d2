"""Quantities as a person reads them, and where they stand on an axis."""

from itertools import pairwise

import pytest

from flows.capacity.scales import Linear, Nines, from_zero, nines
from flows.capacity.words import (
    DASH,
    SPACE,
    budgets,
    goal,
    limit,
    machines,
    money,
    percent,
    portion,
    prose,
    rate,
    seconds,
    size,
)
from schedules.capacity.clusters import Cluster


@pytest.mark.parametrize(
    ("amount", "currency", "words"),
    [
        (0.0, "$", "$0"),
        (0.0123, "$", "$0.0123"),
        (6.846, "$", "$6.85"),
        (12345.6, "$", "$12,346"),
        (1234.5, "EUR", "1,234 EUR"),
        (float("inf"), "$", DASH),
    ],
    ids=["nothing", "little", "some", "much", "word", "infinite"],
)
def test_money_has_cents_as_far_as_they_count(amount: float, currency: str, words: str) -> None:
    assert money(amount, currency) == words.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.5, "50 %"), (0.98999, "98.9 %"), (0.99, "99 %"), (0.9991, "99.91 %"), (0.9999993, "99.99993 %"),
     (1.0, "100 %"), (float("nan"), DASH)],
)  # fmt: skip
def test_what_misses_a_goal_is_never_written_as_if_it_attained_it(share: float, words: str) -> None:
    assert percent(share) == words.replace(" ", SPACE)


def test_other_quantities_have_their_units() -> None:
    found = [
        goal(0.995), portion(0.0), portion(0.00042), portion(0.0812), seconds(0.0213), seconds(0.0042), seconds(2.0),
        seconds(75.0), seconds(1200.0), seconds(None), limit(2.5), size(64 << 30), size(900 * 10**9), size(0), rate(1.25e9),
        budgets({"l4": 64 << 30}), budgets({"a": 10**9, "b": 2 * 10**9}), budgets({}),
        machines(Cluster({"a": 2, "b": 0, "c": 1000})),
    ]  # fmt: skip
    assert [each.replace(SPACE, " ") for each in found] == [
        "99.5 %", "0 %", "0.042 %", "8.1 %", "21 ms", "4.2 ms", "2.00 s", "75.0 s", "20 min", DASH,
        "2.5 s", "64 GiB", "900 GB",
        "0 B", "1.25 GB/s", "64 GiB", "1 GB (a), 2 GB (b)", DASH, "2 x a + 1000 x c",
    ]  # fmt: skip


def test_a_number_is_not_parted_from_its_unit() -> None:
    assert (
        prose("7 x l4: 99 % in 2 s, 3 machines, 12 sheep")
        == "7\u00a0x\u00a0l4: 99\u00a0% in 2\u00a0s, 3 machines, 12 sheep"
    )


def test_nines_are_equally_far_apart_and_all_of_it_stands_at_the_end() -> None:
    scale = Nines(0.0, 0.999)
    places = [scale.at(share) for share in (0.0, 0.9, 0.99, 0.999)]
    assert places == pytest.approx([0, 1 / 3.5, 2 / 3.5, 3 / 3.5])
    assert scale.at(1.0) == 1.0
    assert scale.at(-0.1) == 0.0
    assert scale.at(0.99999) == pytest.approx(3 / 3.5)


@pytest.mark.parametrize("shares", [(), (1.0,), (0.0, 1.0), (0.2, 0.5), (0.99, 0.99), (0.9999999,)])
@pytest.mark.parametrize("wanted", [0.5, 0.99, 1.0])
def test_a_scale_holds_all_shares_in_their_order_with_ticks_apart(shares: tuple[float, ...], wanted: float) -> None:
    scale = nines(shares, wanted)
    places = [scale.at(share) for share in sorted((*shares, wanted))]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1
    labels = sorted([scale.at(wanted), *(scale.at(tick) for tick in scale.ticks(wanted, 0.07))])
    assert min((b - a for a, b in pairwise(labels)), default=1) >= 0.07


@pytest.mark.parametrize("highest", [1e-9, 0.7, 3.0, 11_423.0, 5e7])
def test_ticks_of_a_linear_scale_are_round_and_not_many(highest: float) -> None:
    scale = from_zero([highest])
    ticks = scale.ticks(5)
    assert 3 <= len(ticks) <= 7
    assert ticks[0] == 0
    assert ticks[-1] <= scale.high
    assert float(f"{ticks[1]:.2g}") == pytest.approx(ticks[1])


def test_nothing_has_a_scale_too() -> None:
    assert from_zero([]) == from_zero([0.0]) == Linear(0.0, 1.0)
