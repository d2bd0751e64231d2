"""How clusters, shares, times and prices are called."""

import pytest

from schedules.capacity.answering.words import machines_in_words, percent, price, seconds
from schedules.capacity.clusters import Cluster


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0 %"),
        (0.1, "10 %"),
        (0.95, "95 %"),
        (0.9921, "99.2 %"),
        (0.9997, "99.97 %"),
        (0.99999, "99.999 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_has_as_many_digits_as_tell_it_from_all(share: float, told: str) -> None:
    assert percent(share) == told


def test_a_share_is_not_said_to_be_more_than_it_is() -> None:
    assert percent(0.9499) == "94.9 %"


def test_times_and_prices_and_machines() -> None:
    assert (seconds(1.2345), seconds(0.0381)) == ("1.23 s", "38.1 ms")
    assert (price(12.5, "$"), price(1234.5, "EUR")) == ("$12.50 an hour", "1,234.50 EUR an hour")
    assert machines_in_words(Cluster({"a": 3, "b": 0, "c": 1})) == "3 x a + 1 x c"
