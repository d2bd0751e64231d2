"""Callers that nobody vouches for: how many wait, and what the log says of those that are refused."""

import logging

import pytest

from storage_tiers.strangers import MOST_STRANGERS, SAY_EVERY_S, Refusals, Strangers


def test_the_oldest_makes_room_and_who_is_known_stays() -> None:
    turned_away: list[int] = []
    strangers: Strangers[int] = Strangers(turned_away.append)
    for number in range(MOST_STRANGERS):
        strangers.admit(number)
    strangers.leave(0)
    for number in range(MOST_STRANGERS, MOST_STRANGERS + 3):
        strangers.admit(number)
    assert turned_away == [1, 2]


def test_a_flood_of_refusals_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    refusals = Refusals(logging.getLogger("test"), "door", clock=lambda: now_s)
    for _ in range(1000):
        refusals.note("10.0.0.9", "it is unknown")
    now_s = SAY_EVERY_S
    refusals.note("10.0.0.8", "it is unknown")
    assert [record.getMessage() for record in caplog.records] == [
        "door: a caller from 10.0.0.9 was refused: it is unknown",
        "door: a caller from 10.0.0.8 was refused: it is unknown (999 more before)",
    ]
