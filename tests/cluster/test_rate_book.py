"""What a node has measured, as it is kept and told; and how steps are timed."""

import time
from pathlib import Path

import pytest
import torch

from cluster.node.rate_book import FILE, RateBook
from cluster.stage.compute_probe import measure_products
from cluster.stage.pace import Pace
from cluster.stage.pulse import Pulse
from schedules.facts import Rate
from schedules.rates import DECODE, NIC, PREFILL, PREFILL_TOKENS, STORE, formed


def test_a_speed_is_told_with_its_slow_end_and_a_duration_with_its_long_one(tmp_path: Path) -> None:
    book = RateBook(tmp_path)
    for name in (NIC, formed(2)):
        book.observe_all(name, [1.0, 1.0, 5.0, 5.0])
    rates = book.rates()
    assert (rates[NIC].bad, rates[formed(2)].bad, rates[NIC].samples) == (1.0, 5.0, 4)


def test_a_sample_that_was_held_up_counts_until_there_is_one_that_was_not(tmp_path: Path) -> None:
    """The first group of its degree was joined over a wire full of units: for eight more starts each was predicted to take
    as long, three times of what it took."""
    book = RateBook(tmp_path)
    book.observe_makeshift(formed(2), 0.3)
    book.observe_makeshift(formed(2), 0.4)
    assert book.rates()[formed(2)] == Rate(0.3, 0.3, 1)
    book.observe(formed(2), 0.1)
    assert book.rates()[formed(2)] == Rate(0.1, 0.1, 1)
    book.observe_makeshift(formed(2), 0.4)
    book.observe(formed(2), 0.2)
    assert book.rates()[formed(2)].samples == 2


def test_what_the_store_gives_is_told_only_if_it_limits(tmp_path: Path) -> None:
    book = RateBook(tmp_path)
    book.limit_store(7.0)
    assert book.rates() == {STORE: Rate(7.0, 7.0, 1)}
    book.limit_store(None)
    assert book.rates() == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "samples": {"nic": [-1]}, "store": null}']
)
def test_a_damaged_file_counts_as_nothing_measured(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    book = RateBook(tmp_path)
    assert book.rates() == {}
    book.observe(NIC, 5.0)
    changes = book.changes()
    assert changes is not None
    book.write(changes)
    assert RateBook(tmp_path).rates() == book.rates() != {}
    assert book.changes() is None


def test_a_folder_that_cannot_be_written_loses_what_was_measured_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = RateBook(tmp_path / "absent")
    for value in (1.0, 2.0):
        book.observe(NIC, value)
        book.write(book.changes() or "")
    assert book.rates()[NIC].samples == 2
    assert len(caplog.records) == 1, "it is said once"


def test_steps_are_timed_by_their_kind_and_without_waiting() -> None:
    """Each step waits for longer than all that is told of it."""
    pace = Pace(torch.device("cpu"))
    pulse = Pulse(lambda: None, lambda _cause: None, 60.0, pace)
    for tokens in (1, 1, 5, PREFILL_TOKENS):
        pulse.step(tokens)
        with pulse.waiting():
            time.sleep(0.5)
        pulse.rest()
    paces = pace.take()
    assert 0 < paces.decode_s < 0.5
    assert 0 < paces.prefill_s_per_token < 0.5 / PREFILL_TOKENS
    assert (pace.take().decode_s, pace.take().prefill_s_per_token) == (0.0, 0.0)


def test_only_steps_of_one_token_and_long_ones_tell() -> None:
    pace = Pace(torch.device("cpu"))
    pace.begin(5)
    pace.end()
    assert (pace.take().decode_s, pace.take().prefill_s_per_token) == (0.0, 0.0)


def test_products_tell_both_speeds() -> None:
    found = measure_products(torch.device("cpu"))
    assert found.keys() == {DECODE, PREFILL}
    assert all(value > 0 for value in found.values())
