"""Text that comes in pieces, read letter by letter: who reads waits, as a generator, until there is enough of it."""

from collections.abc import Generator, Sequence

BLANKS = " \n\t\r"
Reading = Generator[None, None, None]


class Letters:
    """What came and was not read yet."""

    def __init__(self) -> None:
        self.held = ""
        self._at = 0

    def add(self, text: str) -> None:
        """More came."""
        self.held += text

    def drop(self) -> None:
        """Forget what was read."""
        self.held, self._at = self.held[self._at :], 0

    def skip(self, letters: int) -> None:
        """So many were read."""
        self._at += letters

    def peek(self, letters: int = 1) -> Generator[None, None, str]:
        """The next letters, which stay."""
        while len(self.held) - self._at < letters:
            yield
        return self.held[self._at : self._at + letters]

    def blanks(self) -> Reading:
        """Pass them over."""
        while (yield from self.peek()) in BLANKS:
            self._at += 1

    def expect(self, literals: Sequence[str]) -> Reading:
        """Pass these over, and blanks before each."""
        for literal in literals:
            yield from self.blanks()
            yield from self.peek(len(literal))
            self._at += len(literal)

    def stands(self, literal: str) -> Generator[None, None, bool]:
        """Whether the literal comes next, behind blanks."""
        yield from self.blanks()
        for length in range(1, len(literal) + 1):
            if not literal.startswith((yield from self.peek(length))):
                return False
        return True

    def before(self, literal: str, lines: bool = False) -> Generator[None, None, tuple[str, bool]]:
        """More of what stands before the literal, and whether that is all, and the literal passed over; with `lines` a line's
        end right before it is none of it."""
        while True:
            found = self.held.find(literal, self._at)
            text = self.held[self._at :] if found < 0 else self.held[self._at : found]
            if found >= 0:
                self._at = found + len(literal)
                return text.removesuffix("\n") if lines else text, True
            kept = max(begun(text, literal), begun(text, "\n" + literal) if lines else 0)
            if len(text) > kept:
                self._at += len(text) - kept
                return text[: len(text) - kept], False
            yield


def begun(text: str, literal: str) -> int:
    """Length of the longest end of the text that begins the literal."""
    for length in range(min(len(literal) - 1, len(text)), 0, -1):
        if literal.startswith(text[-length:]):
            return length
    return 0
