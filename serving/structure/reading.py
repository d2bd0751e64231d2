"""Calls of tools read out of an answer, in whatever pieces its text comes."""

import string
from collections.abc import Container, Generator

from serving.answering.deltas import CallPiece
from serving.structure.arguments import read_json, read_values
from serving.structure.calling import Calling
from serving.structure.formats import NAME_LETTERS
from serving.structure.letters import BLANKS, Letters, Reading, begun
from serving.structure.parameters import Parameters, parameters_of

_DIGITS = frozenset(string.digits)


class CallReader:
    """Reads one answer. What stands before its calls is text, but for blanks at its end; once there is a call nothing is.

    It reads what the grammar of the same format leaves (serving.structure.grammars): what is otherwise is passed over.
    """

    def __init__(self, calling: Calling) -> None:
        self._format, self._tools, self._only = calling.form, calling.tools, calling.only
        self._letters = Letters()
        self._arguments = ""
        self._calls = 0
        self._shown = False
        self._pieces: list[CallPiece] = []
        self._reading: Reading | None = None

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        return self._calls > 0

    def push(self, text: str) -> tuple[str, tuple[CallPiece, ...]]:
        """What of the answer's text may be shown now, and what there is more of calls."""
        self._letters.add(text)
        shown = self._text() if self._reading is None else ""
        if self._reading is not None:
            next(self._reading, None)
            self._letters.drop()
        self._end_piece()
        pieces, self._pieces = tuple(self._pieces), []
        return shown, pieces

    def flush(self) -> str:
        """What was held back in case calls had begun, at the answer's end; where there are only calls, the mark of one that
        was cut off."""
        return self._take(len(self._letters.held)) if self._reading is None and not self._only else ""

    # ---- text before calls

    def _text(self) -> str:
        """As much of what is held as no call can begin in; from a trigger on it is read as calls."""
        if self._format.at_start:
            return self._unless_begun()
        held, triggers = self._letters.held, self._format.triggers
        found = [at for at in map(held.find, triggers) if at >= 0]
        if found:
            shown = self._take(min(found)).rstrip(BLANKS)
            self._reading = self._read()
            return shown
        kept = max(begun(held, trigger) for trigger in triggers)
        return self._take(len(held[: len(held) - kept].rstrip(BLANKS)))

    def _unless_begun(self) -> str:
        """Calls are the whole answer, or there are none."""
        held = self._letters.held
        said = held.lstrip(BLANKS)
        if not self._shown and any(said.startswith(trigger) for trigger in self._format.triggers):
            self._reading = self._read()
            return ""
        if not self._shown and any(trigger.startswith(said) for trigger in self._format.triggers):
            return ""
        self._shown = True
        return self._take(len(held))

    def _take(self, letters: int) -> str:
        """So many of them, which are text."""
        taken = self._letters.held[:letters]
        self._letters.skip(letters)
        self._letters.drop()
        return taken

    # ---- calls

    def _read(self) -> Reading:
        form, letters = self._format, self._letters
        if form.mark is not None and (yield from letters.stands(form.mark)):
            yield from letters.expect((form.mark,))
        yield from letters.expect(form.begin)
        more = True
        while more:
            yield from self._call()
            more = False
            for opening in form.openings:
                more = more or (yield from letters.stands((*form.between, *opening)[0]))
            yield from letters.expect(form.between if more else form.end)
        while True:  # nothing follows
            letters.skip(len(letters.held))
            letters.drop()
            yield

    def _call(self) -> Reading:
        form, letters = self._format, self._letters
        whole = not form.loose or (yield from letters.stands(form.opening[0]))
        yield from letters.expect(form.openings[0 if whole else 1])
        name = yield from self._word(NAME_LETTERS)
        written = form.new_id()
        if form.numbered is not None:
            yield from letters.expect((form.numbered,))
            written = f"{form.opening[-1]}{name}{form.numbered}{(yield from self._word(_DIGITS))}"
        self._calls += 1
        self._pieces.append(CallPiece(self._calls - 1, written, name, ""))
        yield from letters.expect(form.named)
        if form.values is None:
            yield from read_json(letters, self._say)
        else:
            yield from read_values(letters, form.values, self._parameters(name), self._say)
        self._end_piece()
        closed, loose = form.closings
        yield from letters.expect(closed)
        for literal in loose:
            if (yield from letters.stands(literal)):
                yield from letters.expect((literal,))

    def _word(self, of: Container[str]) -> Generator[None, None, str]:
        """The next letters, as far as they are some of these."""
        word = ""
        while (letter := (yield from self._letters.peek())) in of:
            word += letter
            self._letters.skip(1)
        return word

    def _parameters(self, name: str) -> Parameters:
        return next((parameters_of(tool) for tool in self._tools if tool.name == name), Parameters((), None))

    def _say(self, arguments: str) -> None:
        self._arguments += arguments

    def _end_piece(self) -> None:
        if self._arguments:
            self._pieces.append(CallPiece(self._calls - 1, None, None, self._arguments))
            self._arguments = ""
