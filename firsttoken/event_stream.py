"""Server-sent events, read as the WHATWG's HTML standard says: section 9.2.6, "Interpreting an event stream".

Lines end with CR, LF or both and with nothing else: JSON leaves other separators (U+2028, U+0085) in its text as they are.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile("\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """What an event says: its data, or for a comment, which keeps a connection alive, the comment."""

    data: str = ""
    comment: str = ""


class EventReader:
    """Takes the bytes of a stream in whatever pieces they come."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._data: list[str] = []
        self._begun = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete with `data`. One that is not complete at a stream's end is none."""
        text = self._text + self._decoder.decode(data)
        if not self._begun and text:
            text, self._begun = text.removeprefix("\ufeff"), True
        held = "\r" if text.endswith("\r") else ""  # the second half of this line's end may follow
        *lines, rest = _LINE_END.split(text.removesuffix(held))
        self._text = rest + held
        for line in lines:
            yield from self._take(line)

    def _take(self, line: str) -> Iterator[Event]:
        if not line:
            if self._data:
                yield Event(data="\n".join(self._data))
            self._data = []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name and line.startswith(":"):
            yield Event(comment=value)
        elif name == "data":
            self._data.append(value)
