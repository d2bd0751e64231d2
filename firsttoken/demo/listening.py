"""Answers as they come: words on the console, and when they came by the client's own clock."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from firsttoken.frontend import Piece

WIDEST = 80


@dataclass(frozen=True)
class Heard:
    """What a request brought: the text, when it was asked, and when each piece of it came, in unix seconds."""

    text: str
    asked_s: float
    times_s: tuple[float, ...]

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.times_s[0] - self.asked_s if self.times_s else 0.0


class Words:
    """Text in lines of whole words, as wide as the console and no wider than WIDEST; word by word on a terminal, elsewhere
    line by line."""

    def __init__(self, console: Console) -> None:
        self._console, self._width = console, min(console.width, WIDEST)
        self._column, self._word, self._line = 0, "", ""

    def write(self, text: str) -> None:
        """More of it: a word is shown once it is whole."""
        for letter in text:
            if not letter.isspace():
                self._word += letter
                continue
            self._flush()
            if letter == "\n":
                self._break()

    def note(self, text: str) -> None:
        """A line of its own, in between."""
        if self._column:
            self._break()
        self._console.print(text, style="yellow", markup=False, highlight=False)

    def end(self) -> None:
        """That was all."""
        self._flush()
        if self._column:
            self._break()

    def _flush(self) -> None:
        word, self._word = self._word, ""
        if not word:
            return
        if self._column and self._column + 1 + len(word) > self._width:
            self._break()
        word = f" {word}" if self._column else word
        self._column += len(word)
        if self._console.is_terminal:
            self._console.print(word, end="", markup=False, highlight=False, soft_wrap=True)
        else:
            self._line += word

    def _break(self) -> None:
        self._console.print(self._line, markup=False, highlight=False, soft_wrap=True)
        self._column, self._line = 0, ""


class Expecting:
    """While nothing comes, how long that has been and how long it is expected to be, and what the front end says meanwhile;
    it vanishes with the first token. Nothing where there is no terminal."""

    def __init__(self, console: Console, expected_s: float | None) -> None:
        note = TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns = (SpinnerColumn(), _Elapsed(expected_s), note)
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task("", total=None, note="") if self._bar is not None else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.over()

    def note(self, text: str) -> None:
        """Show what is done, out of what the front end says, in place of the last note."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=text.rpartition(": ")[2].partition(", first token")[0])

    def over(self) -> None:
        """It has come."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Elapsed(ProgressColumn):
    """A bar that fills as time goes by, and the seconds."""

    max_refresh = None

    def __init__(self, expected_s: float | None) -> None:
        super().__init__()
        self._expected_s = expected_s

    def render(self, task: Task) -> Table:
        shown, elapsed_s = Table.grid(padding=(0, 1)), task.elapsed or 0.0
        if self._expected_s is None:
            shown.add_row(f"{elapsed_s:.1f} s")
        else:
            bar = ProgressBar(total=self._expected_s, completed=min(elapsed_s, self._expected_s), width=24)
            shown.add_row(bar, f"{elapsed_s:.1f} of about {self._expected_s:.1f} s")
        return shown


async def listen(pieces: AsyncGenerator[Piece], console: Console, expected_s: float | None = None) -> Heard:
    """Show an answer as it comes."""
    asked_s, times_s, texts, words = time.time(), list[float](), list[str](), Words(console)
    with Expecting(console, expected_s) as expecting:
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.note:
                    expecting.note(piece.note)
                if piece.text:
                    times_s.append(time.time())
                    texts.append(piece.text)
                    expecting.over()
                    words.write(piece.text)
    words.end()
    return Heard("".join(texts), asked_s, tuple(times_s))
