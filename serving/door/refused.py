"""What the log says of requests that are refused: a line each, but for what a flood of them would write."""

import logging
import time
from collections.abc import Callable

from serving.errors import RequestError

MOST_LINES, WITHIN_S = 50, 10.0
_SHOWN_LETTERS = 300


class Sparing(logging.Filter):
    """Lets MOST_LINES through in WITHIN_S seconds; the next line after those says how many there were more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._since_s, self._lines = clock, float("-inf"), 0

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = self._clock()
        if now_s - self._since_s >= WITHIN_S:
            unsaid = self._lines - MOST_LINES
            if unsaid > 0:
                record.msg = f"{record.msg} ({unsaid} more before were not logged)"
            self._since_s, self._lines = now_s, 0
        self._lines += 1
        return self._lines <= MOST_LINES


_log = logging.getLogger(__name__)
_log.addFilter(Sparing())


def note_refused(identifier: str, what: str, error: RequestError) -> None:
    """Say so of the request, which asked for `what`. Clients' words are shown escaped and cut."""
    level = logging.INFO if error.status < 500 else logging.WARNING
    field = f" {error.param}" if error.param is not None else ""
    shown = (_escaped(text) for text in (what, field, str(error)))
    _log.log(level, "%s was refused: %s, %d%s: %s", identifier, next(shown), error.status, *shown)


def _escaped(text: str) -> str:
    return text[:_SHOWN_LETTERS].encode("unicode_escape").decode()
