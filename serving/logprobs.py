"""Log probabilities of an answer's tokens, in step with its text, in OpenAI's two shapes.

Text lags behind tokens: a character comes with its last byte, and what may begin a stop string waits until that is
decided. A token's log probability comes together with the text that the token begins in:

- tokens that each have a part of a character wait for its last byte, and then stand at the same offset;
- what a stop string cuts off has none: tokens that begin at the cut or behind it are left out; the one that the cut falls
  into is there, whole;
- at an answer's end all that still waits is given: the token by which the model ended it, which is no text, and bytes of a
  character that was not completed.

So the entries' bytes, joined, are the answer's text, but for those two ends; and except for what a stop string cut off
there is one entry for each token.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.wire.requests import TokenLogprobs
from serving.text import ModelText, TokenText

_LEAST = -9999.0
"""What OpenAI says for a token that is all but impossible; JSON has no minus infinity."""


@dataclass(frozen=True)
class Entry:
    """A token of an answer, and the `offset` in characters of the answer's text at which it begins."""

    token: int
    logprobs: TokenLogprobs
    offset: int


class InStep:
    """Holds the entries of one answer back until their text is shown; see the module."""

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._decoded = self._shown = 0

    def push(self, token: int, logprobs: TokenLogprobs, text: str) -> None:
        """One more token was chosen; it completes `text`, maybe none."""
        self._waiting.append(Entry(token, logprobs, self._decoded))
        self._decoded += len(text)

    def show(self, text: str, all_of_them: bool) -> tuple[Entry, ...]:
        """The entries that come with `text`, the answer's next; `all_of_them` if none has to wait for more."""
        self._shown += len(text)
        due = []
        while self._waiting and (all_of_them or self._waiting[0].offset < self._shown):
            due.append(self._waiting.popleft())
        return tuple(due)


def chat_json(entries: Iterable[Entry], text: ModelText | None) -> dict[str, Any]:
    """A chat choice's `logprobs`."""
    content = []
    for entry in entries:
        top = [_told(text, token, logprob) for token, logprob in entry.logprobs.top]
        content.append({**_told(text, entry.token, entry.logprobs.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_json(entries: Sequence[Entry], text: ModelText | None) -> dict[str, Any]:
    """A completion choice's `logprobs`. The chosen token is always among the top ones; of equal texts the likelier counts."""
    tops = []
    for entry in entries:
        top: dict[str, float] = {}
        for token, logprob in (*entry.logprobs.top, (entry.token, entry.logprobs.logprob)):
            top.setdefault(_of(text, token).text, _finite(logprob))
        tops.append(top)
    return {
        "tokens": [_of(text, entry.token).text for entry in entries],
        "token_logprobs": [_finite(entry.logprobs.logprob) for entry in entries],
        "top_logprobs": tops,
        "text_offset": [entry.offset for entry in entries],
    }


def _told(text: ModelText | None, token: int, logprob: float) -> dict[str, Any]:
    told = _of(text, token)
    return {
        "token": told.text,
        "logprob": _finite(logprob),
        "bytes": list(told.data) if told.data is not None else None,
    }


def _of(text: ModelText | None, token: int) -> TokenText:
    return text.token(token) if text is not None else TokenText.unnamed(token)


def _finite(logprob: float) -> float:
    return max(_LEAST, logprob)
