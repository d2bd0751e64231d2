"""Calls of tools read out of an answer, in whatever pieces its text comes."""

from collections.abc import Generator, Sequence

from serving.answering.deltas import CallPiece
from serving.structure.formats import NAME_LETTERS, CallFormat

_BLANKS = " \n\t\r"


_Reading = Generator[None, None, None]


class CallReader:
    """Reads one answer. What stands before its calls is text, but for blanks at its end; once there is a call nothing is.

    It reads what the grammar of the same format leaves (serving.structure.grammars): what is otherwise is passed over.
    """

    def __init__(self, form: CallFormat) -> None:
        self._format = form
        self._held = self._arguments = ""
        self._at = 0
        self._calls = 0
        self._shown = False
        self._pieces: list[CallPiece] = []
        self._reading: _Reading | None = None

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        return self._calls > 0

    def push(self, text: str) -> tuple[str, tuple[CallPiece, ...]]:
        """What of the answer's text may be shown now, and what there is more of calls."""
        self._held += text
        shown = self._text() if self._reading is None else ""
        if self._reading is not None:
            self._go_on()
        if self._arguments:
            self._pieces.append(CallPiece(self._calls - 1, None, None, self._arguments))
            self._arguments = ""
        pieces, self._pieces = tuple(self._pieces), []
        return shown, pieces

    def flush(self) -> str:
        """What was held back in case calls had begun, at the answer's end."""
        shown, self._held = self._held if self._reading is None else "", ""
        return shown

    # ---- text before calls

    def _text(self) -> str:
        """As much of what is held as no call can begin in; from a trigger on it is read as calls."""
        if self._format.at_start:
            return self._unless_begun()
        (trigger,) = self._format.triggers
        at = self._held.find(trigger)
        if at >= 0:
            shown = self._held[:at].rstrip(_BLANKS)
            self._begin(at)
            return shown
        stripped = self._held[: len(self._held) - _begun(self._held, trigger)].rstrip(_BLANKS)
        self._held = self._held[len(stripped) :]
        return stripped

    def _unless_begun(self) -> str:
        """Calls are the whole answer, or there are none."""
        begun = self._held.lstrip(_BLANKS)
        if not self._shown and any(begun.startswith(trigger) for trigger in self._format.triggers):
            self._begin(len(self._held) - len(begun))
            return ""
        if not self._shown and any(trigger.startswith(begun) for trigger in self._format.triggers):
            return ""
        self._shown = True
        shown, self._held = self._held, ""
        return shown

    def _begin(self, at: int) -> None:
        self._held, self._at = self._held[at:], 0
        self._reading = self._read()

    # ---- calls

    def _go_on(self) -> None:
        assert self._reading is not None
        next(self._reading, None)
        self._held, self._at = self._held[self._at :], 0

    def _peek(self, letters: int = 1) -> Generator[None, None, str]:
        """The next letters, which stay."""
        while len(self._held) - self._at < letters:
            yield
        return self._held[self._at : self._at + letters]

    def _read(self) -> _Reading:
        form = self._format
        if form.mark is not None and (yield from self._stands(form.mark)):
            yield from self._expect((form.mark,))
        yield from self._expect(form.begin)
        more = True
        while more:
            yield from self._call()
            more = yield from self._stands((*form.between, *form.opening)[0])
            yield from self._expect(form.between if more else form.end)
        while True:  # nothing follows
            self._at = len(self._held)
            yield

    def _call(self) -> _Reading:
        yield from self._expect(self._format.opening)
        name = ""
        while (letter := (yield from self._peek())) in NAME_LETTERS:
            name += letter
            self._at += 1
        self._calls += 1
        self._pieces.append(CallPiece(self._calls - 1, self._format.new_id(), name, ""))
        yield from self._expect(self._format.named)
        yield from self._object()
        if self._arguments:
            self._pieces.append(CallPiece(self._calls - 1, None, None, self._arguments))
            self._arguments = ""
        yield from self._expect(self._format.closing)

    def _object(self) -> _Reading:
        """The arguments: an object, up to the brace that closes it."""
        yield from self._blanks()
        depth, within, escaped = 0, False, False
        while True:
            letter = yield from self._peek()
            self._at += 1
            self._arguments += letter
            if within:
                within = escaped or letter != '"'
                escaped = letter == "\\" and not escaped
            elif letter == '"':
                within = True
            else:
                depth += (letter in "{[") - (letter in "}]")
                if depth <= 0:
                    return

    def _expect(self, literals: Sequence[str]) -> _Reading:
        for literal in literals:
            yield from self._blanks()
            yield from self._peek(len(literal))
            self._at += len(literal)

    def _stands(self, literal: str) -> Generator[None, None, bool]:
        """Whether the literal comes next, behind blanks."""
        yield from self._blanks()
        for length in range(1, len(literal) + 1):
            if not literal.startswith((yield from self._peek(length))):
                return False
        return True

    def _blanks(self) -> _Reading:
        while (yield from self._peek()) in _BLANKS:
            self._at += 1


def _begun(text: str, trigger: str) -> int:
    """Length of the longest end of the text that begins the trigger."""
    for length in range(min(len(trigger) - 1, len(text)), 0, -1):
        if trigger.startswith(text[-length:]):
            return length
    return 0
