"""Promised device memory: what comes on top of what nodes report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Node
from schedules.ledgers.memory import Memory
from tests.schedules.models import node_of


def _reports(reserved_bytes: int = 0, *groups: str) -> Node:
    made = node_of("a", 100, reserved_bytes)
    return type(made)(**{**vars(made), "groups": groups})


def test_what_is_promised_is_not_free() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 60, "b": 10})
    assert memory.free_bytes(_reports()) == 40
    assert memory.by_node() == {"a": 60, "b": 10}


def test_a_group_that_its_node_names_is_counted_by_the_node_alone() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 60})
    memory.report(_reports(60, "g1"))
    assert memory.free_bytes(_reports(60, "g1")) == 40
    assert memory.by_node() == {}


def test_a_report_of_before_that_is_heard_after_a_later_one_does_not_end_the_promise() -> None:
    """It ended with the first report that named its group, for good: one that was under way still said that the node was
    empty, and the next start was sent there."""
    memory = Memory()
    memory.promise("g1", {"a": 60})
    memory.report(_reports(60, "g1"))
    memory.report(_reports())
    assert memory.free_bytes(_reports()) == 40


def test_a_report_that_names_others_ends_no_promise() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 30})
    memory.report(_reports(50, "other"))
    assert memory.free_bytes(_reports(50, "other")) == 20


def test_a_node_that_reports_more_than_was_thought_has_less_than_nothing_free() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 60})
    assert memory.free_bytes(_reports(70, "other")) == -30


def test_what_is_released_is_free_and_twice_is_once() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 60, "b": 1})
    memory.release("g1")
    memory.release("g1")
    memory.release("unknown")
    assert memory.by_node() == {}
    memory.promise("g1", {"a": 60})


def test_one_group_is_promised_once() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 60})
    with pytest.raises(ValueError, match="g1"):
        memory.promise("g1", {"b": 60})
    assert memory.by_node() == {"a": 60}


def test_what_a_node_said_before_it_left_counts_for_nothing() -> None:
    memory = Memory()
    memory.promise("g1", {"a": 60})
    memory.report(_reports(60, "g1"))
    memory.forget("a")
    assert memory.promised_bytes("a") == 60
    memory.release("g1")
    memory.forget("a")
    assert memory.by_node() == {}


@given(st.lists(st.tuples(st.sampled_from(["promise", "report", "release", "forget"]), st.sets(st.integers(0, 3)))))
def test_what_comes_on_top_is_always_the_sum_of_what_is_promised_and_not_named(
    steps: list[tuple[str, set[int]]],
) -> None:
    memory, promised, named = Memory(), set[str](), set[str]()
    sizes = {f"g{i}": 10**i for i in range(4)}
    for step, numbers in steps:
        groups = {f"g{i}" for i in numbers}
        if step == "promise":
            for group in groups - promised:
                memory.promise(group, {"a": sizes[group]})
            promised |= groups
        elif step == "release":
            for group in groups:
                memory.release(group)
            promised -= groups
        elif step == "report":
            memory.report(_reports(0, *sorted(groups)))
            named = groups
        else:
            memory.forget("a")
            named = set()
        assert memory.promised_bytes("a") == sum(sizes[group] for group in promised - named)
