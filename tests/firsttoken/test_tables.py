"""Tables that fit a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from firsttoken.views.tables import node_names, open_table


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ((), ""),
        (("node-1",), "node-1"),
        (("node-3", "node-1", "node-12"), "node-3, 1, 12"),
        (("node-1", "gpu-1"), "node-1, gpu-1"),
        (("a", "b"), "a, b"),
        (("node", "node"), "node, node"),
        (("1", "2"), "1, 2"),
    ],
    ids=["none", "one", "numbers", "two-stems", "no-numbers", "nameless", "only-numbers"],
)
def test_names_of_nodes_are_told_in_short_where_only_numbers_differ(names: tuple[str, ...], shown: str) -> None:
    assert node_names(names) == shown


def test_a_title_is_not_broken_where_a_narrow_table_ends() -> None:
    console = Console(file=io.StringIO(), width=80)
    table = open_table("a title that is much longer than its table")
    table.add_row("x")
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[0].rstrip() == "a title that is much longer than its table"
