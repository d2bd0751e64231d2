"""Tables that fit a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from firsttoken.terminal import model_table
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


def test_a_name_that_has_no_room_is_broken_and_not_cut_off() -> None:
    """`firsttoken models` through a pipe, which is 80 wide: a long name ended with three dots."""
    console, name = Console(file=io.StringIO(), width=80), "an-organisation/" + "a-name-" * 8
    model = {
        "name": name,
        "dtype": "bfloat16",
        "layers": 32,
        "size_bytes": 16_000_000_000,
        "version": "_11a8a1e6a1ec3339",
    }
    console.print(model_table([model]))
    assert isinstance(console.file, io.StringIO)
    rows = console.file.getvalue().splitlines()[1:]
    assert "".join(row.split("  ")[0].strip() for row in rows) == name
