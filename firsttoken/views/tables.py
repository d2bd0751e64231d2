"""Tables that fit 80 columns: no lines, and names of nodes in short."""

from collections.abc import Sequence
from typing import Any, Self, cast

from rich import table

_TITLE_WIDTH = 78


class Table(table.Table):
    """One that breaks what it has no room for, and does not cut it off: people copy names."""

    def add_column(self, *header: Any, **options: Any) -> None:
        if not options.get("no_wrap"):
            options.setdefault("overflow", "fold")
        super().add_column(*header, **options)

    @classmethod
    def grid(cls, *headers: Any, **options: Any) -> Self:
        return cast(Self, super().grid(*headers, **options))


def wide_as(title: str) -> int:
    """A table's least width, for its title is broken where the table ends."""
    return min(len(title), _TITLE_WIDTH)


def open_table(title: str, gap: int = 2) -> Table:
    """A table without lines, below its title, and so many blanks between its columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, gap, 0, 0),
        pad_edge=False,
        min_width=wide_as(title),
    )


def node_names(names: Sequence[str]) -> str:
    """ "node-1, 2, 3" where names differ by the number at their end alone, else all as they are."""
    stems = {name.rstrip("0123456789") for name in names}
    stem = stems.pop() if len(stems) == 1 else ""
    numbers = [name.removeprefix(stem) for name in names]
    return f"{stem}{', '.join(numbers)}" if stem and all(numbers) else ", ".join(names)
