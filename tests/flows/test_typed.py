"""What is typed for a plan, read."""

import pytest

from flows.errors import Unclear
from flows.planning.typed import by_name, number, shares, size_bytes


def test_sizes() -> None:
    told = ("80GB", "64 GiB", "25gbit", "200mbit", "1024", "7B")
    assert [size_bytes(each, "x") for each in told] == [80e9, 64 * 2**30, 3.125e9, 25e6, 1024, 7]


@pytest.mark.parametrize("told", ["", "80gb", "GB", "-1GB", "inf"])
def test_what_is_no_size_says_what_would_be_one(told: str) -> None:
    with pytest.raises(Unclear, match="is no size: 80GB"):
        size_bytes(told, "the store")


@pytest.mark.parametrize("told", ["", "x", "-1", "nan", "inf"])
def test_what_is_no_number(told: str) -> None:
    with pytest.raises(Unclear, match="no number from 0 on"):
        number(told, "the rate")


def test_shares_are_from_0_to_1() -> None:
    assert shares("1, 0.5,0", "x") == (1.0, 0.5, 0.0)
    for told in ("", "2", "1,1.5"):
        with pytest.raises(Unclear, match="are no shares"):
            shares(told, "x")


NAMES = ("chat-a", "chat-b", "code-a")


def test_patterns_go_before_what_holds_for_all_and_the_first_that_fits_holds() -> None:
    assert by_name("chat-a=1, chat*=2, 3", NAMES, int, "x") == [1, 2, 3]
    assert by_name("chat*=2", NAMES, int, "x") == [2, 2, None]
    assert by_name("", NAMES, int, "x") == [None, None, None]


def test_a_pattern_that_fits_nothing_and_two_things_for_all_are_sentences() -> None:
    with pytest.raises(Unclear, match=r"'sql\*' fits no model of the trace: those are chat-a, chat-b, code-a"):
        by_name("sql*=1", NAMES, int, "the TTFT")
    with pytest.raises(Unclear, match="two things of all models"):
        by_name("1,2", NAMES, int, "the TTFT")
    with pytest.raises(Unclear, match="too many"):
        by_name("1," * 6000, NAMES, int, "the TTFT")
