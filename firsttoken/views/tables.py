"""Tables that fit 80 columns: no lines, and names of nodes in short."""

from collections.abc import Sequence
from os.path import commonprefix

from rich.table import Table


def open_table(title: str) -> Table:
    """A table without lines, below its title."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)


def node_names(names: Sequence[str]) -> str:
    """ "node-1, 2, 3" where names differ by the number at their end alone, else all as they are."""
    stem = commonprefix([name.rstrip("0123456789") for name in names])
    numbers = [name.removeprefix(stem) for name in names]
    if len(names) < 2 or not stem or not all(number.isdigit() for number in numbers):
        return ", ".join(names)
    return f"{stem}{', '.join(numbers)}"
