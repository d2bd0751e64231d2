"""Tables that are read in a terminal and in a document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BEGIN, END = (f"<!-- written by benchmarks/reproductions.py: {word} -->" for word in ("begin", "end"))


@dataclass(frozen=True)
class Shown:
    """A title, what there is to say, and rows of words under `columns`."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def print(self, console: Console) -> None:
        """To a terminal."""
        table = Table(*self.columns, title=self.title, caption=self.note)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> Iterator[str]:
        """Its lines in a document."""
        yield from (f"### {self.title}", "", self.note, "")
        yield f"| {' | '.join(self.columns)} |"
        yield "|" + "---|" * len(self.columns)
        for row in self.rows:
            yield f"| {' | '.join(row)} |"
        yield ""


def around(page: Path) -> tuple[str, str]:
    """What is before the marks of a page, and after them. ValueError if they are not there."""
    before, found, rest = page.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{page} has no place for it: no lines {BEGIN} and {END}")
    return before, after


def write(page: Path, tables: Sequence[Shown], how: str) -> None:
    """The tables, and how they were made, in the place of what is between the marks."""
    before, after = around(page)
    text = "\n".join([how, "", *(line for table in tables for line in table.markdown())])
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
