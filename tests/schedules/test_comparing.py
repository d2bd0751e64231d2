"""How near what was played comes to what was seen."""

import numpy as np
import pytest

from schedules.simulation.comparing import compare, ks, match


def test_two_samples_are_as_far_apart_as_their_distribution_functions() -> None:
    assert ks([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]) == (0.0, 1.0)
    assert ks([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0])[0] == 0.5
    assert ks([1.0, 2.0], [3.0, 4.0])[0] == 1.0
    assert ks([1.0, 1.0, 2.0], [1.0, 2.0, 2.0])[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("scaled", "p"), [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01)])
def test_p_values_are_those_of_the_tables(scaled: float, p: float) -> None:
    """Smirnov's critical values for large samples: of 10,000 each the distance is that by the root of 5,000."""
    count = 10_000
    shift = round(scaled / np.sqrt(count / 2) * count)
    assert ks(np.arange(count), np.arange(count) + shift)[1] == pytest.approx(p, rel=0.03)


def test_samples_of_one_distribution_are_seldom_told_apart_and_of_two_nearly_always() -> None:
    chance = np.random.default_rng(1)
    alike = [ks(chance.gamma(2.0, size=80), chance.gamma(2.0, size=60))[1] for _ in range(400)]
    other = [ks(chance.gamma(2.0, size=80), 2.0 * chance.gamma(2.0, size=60))[1] for _ in range(50)]
    assert 0.01 < np.mean(np.array(alike) < 0.05) < 0.09
    assert max(other) < 0.05


def test_errors_are_shares_of_what_was_seen_and_say_which_way() -> None:
    seen = np.linspace(1.0, 2.0, 101)
    found = compare(seen, [*(0.9 * seen), np.nan])
    assert (found.seen, found.played) == (101, 101)
    assert [found.mean, found.median, found.p90, found.p95, found.p99] == pytest.approx([-0.1] * 5)
    assert compare(seen, 1.2 * seen).p95 == pytest.approx(0.2)


def test_pairs_are_compared_one_by_one() -> None:
    """Two distributions may be the same while every single value is wrong."""
    found = match([1.0, 2.0, np.nan, 4.0], [2.0, 1.0, 5.0, np.nan])
    assert (found.pairs, found.mean, found.median, found.mean_error) == (2, 0.75, 0.75, 1.0)
    assert compare([1.0, 2.0], [2.0, 1.0]).ks == 0.0


def test_what_cannot_be_compared_is_refused() -> None:
    for nothing in ([], [np.nan]):
        for compares in (compare, match, ks):
            with pytest.raises(ValueError, match="nothing to compare"):
                compares(nothing, nothing)
    for compares in (compare, match):
        with pytest.raises(ValueError, match="share of nothing"):
            compares([0.0, 0.0], [1.0, 1.0])
