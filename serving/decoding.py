"""Text that comes out token by token and is, joined, what one decode of all tokens gives behind the prompt.

A token's text may depend on those around it: a character may be spelled by several tokens, a decoder may drop the space at
a text's start, and one that spells unknown characters in bytes shows a row of them as characters only if the whole row is
valid. So text is given out at *settled* places alone: where whatever follows cannot change what stands before. From there
on a few tokens of context are enough to go on as if the whole had been decoded.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tokenizers import Tokenizer

_PLAIN_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTE_OF_LETTER: Mapping[str, int] = {chr(byte): byte for byte in _PLAIN_BYTES} | {
    chr(256 + index): byte for index, byte in enumerate(byte for byte in range(256) if byte not in _PLAIN_BYTES)
}
"""The letters in which byte-level vocabularies are written."""
_SPELLED = re.compile(r"<0x([0-9A-Fa-f+][0-9A-Fa-f])>")
_CONTEXT_TOKENS = 8
"""More than the bytes of a character, so that a context that begins within one is settled where it ends."""


def spelled_byte(written: str) -> int | None:
    """The byte that a token like ``<0xE4>`` spells, None if it is no such token. As the decoder reads it, ``<0x+4>`` too."""
    spelled = _SPELLED.fullmatch(written)
    return int(spelled[1], 16) if spelled is not None else None


def letters_bytes(written: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary; one that is not written in its letters stands for itself."""
    try:
        return bytes(BYTE_OF_LETTER[letter] for letter in written)
    except KeyError:
        return written.encode()


class Decoding:
    """What there is to know of a tokenizer to decode with it, once for all answers. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
        kinds = list(_kinds(tokenizer.decoder))
        names = {kind["type"] for kind in kinds}
        self.by_letters = "ByteLevel" in names
        self.by_fallback = "ByteFallback" in names
        self.needs_context = names != {"ByteLevel"}
        self.only_whole = any(_looks_ahead(kind, fused) for kind, fused in zip(kinds, _fused(kinds), strict=True))

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text as a whole, without special tokens. ValueError if the tokenizer's decoder fails at it."""
        if not tokens:
            return ""
        try:
            return self._tokenizer.decode(tokens, skip_special_tokens=True)
        except BaseException as error:  # a panic of the library is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"the model's tokenizer cannot decode its own tokens: {error}") from error

    def written(self, token: int) -> str | None:
        """The token as the vocabulary writes it, None if it is never text."""
        return None if token in self._special else self._tokenizer.id_to_token(token)

    def whole_characters(self, tokens: Sequence[int]) -> str:
        """Their text, of a byte-level vocabulary, without the last character if more bytes might complete it."""
        written = (self.written(token) for token in tokens)
        data = b"".join(letters_bytes(letters) for letters in written if letters is not None)
        return codecs.getincrementaldecoder("utf-8")("replace").decode(data)

    def spelled(self, tokens: Sequence[int]) -> bytes:
        """The bytes that the first tokens of a row spell, up to one that spells none."""
        row = bytearray()
        for token in tokens if self.by_fallback else ():
            byte = spelled_byte(self.written(token) or "")
            if byte is None:
                break
            row.append(byte)
        return bytes(row)


class _Settling:
    """Follows tokens and knows whether the place behind the last one is settled."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, written: str) -> bool:
        """One more token, written so; whether whatever follows leaves the text up to its end alone."""
        if self._decoding.only_whole or (self._decoding.by_fallback and spelled_byte(written) is not None):
            return False
        if not self._decoding.by_letters:
            return True
        self._characters.decode(letters_bytes(written))
        return not self._characters.getstate()[0]


class TokenDecoder:
    """The text of one answer, see the module. Call `flush` at its end."""

    def __init__(self, decoding: Decoding, context: Sequence[int], begun: Sequence[int], settling: _Settling) -> None:
        self._decoding, self._settling = decoding, settling
        self._context, self._pending = list(context), list(begun)
        self._before = decoding.decode(self._context)
        self._begun = len(self._pending)

    @classmethod
    def behind(cls, decoding: Decoding, prompt: Sequence[int]) -> Self:
        """A decoder of an answer to `prompt`."""
        context, begun, settling = _end_of(decoding, prompt)
        return cls(decoding, context, begun, settling)

    def push(self, token: int) -> str:
        """The text that `token` completes, often ""."""
        written = self._decoding.written(token)
        if written is None:
            return ""
        self._pending.append(token)
        return self.flush() if self._settling.take(written) else ""

    def flush(self) -> str:
        """The text that waits for more, as it stands: a part of a character is shown as U+FFFD."""
        if len(self._pending) == self._begun:
            return ""
        text = self._decoding.decode([*self._context, *self._pending])[len(self._before) :]
        if self._begun:
            text = self._without_prompt(text)
        self._context = self._pending if self._decoding.needs_context else []
        self._pending, self._begun = [], 0
        self._before = self._decoding.decode(self._context)
        return text

    def _without_prompt(self, text: str) -> str:
        """Cut off what the prompt's unsettled end gives: as it was, or, where the answer makes other characters of it, those
        that are made of the prompt's bytes alone."""
        begun = self._pending[: self._begun]
        alone = self._decoding.decode([*self._context, *begun])[len(self._before) :]
        if text.startswith(alone):
            return text[len(alone) :]
        if self._decoding.only_whole:
            return text[next((n for n, (a, b) in enumerate(zip(alone, text, strict=False)) if a != b), len(text)) :]
        if self._decoding.by_letters:
            return text[len(self._decoding.whole_characters(begun)) :]
        row = self._decoding.spelled(self._pending)
        try:
            shown, prompts = row.decode(), row[: len(begun)].decode(errors="ignore")
        except ValueError:  # each of the bytes is shown as U+FFFD
            return text[len(begun) :]
        if not text.startswith(shown):
            text = shown[0] + text  # the decoder drops a space at a text's start
        return text[len(prompts) :]


def _end_of(decoding: Decoding, prompt: Sequence[int]) -> tuple[list[int], list[int], _Settling]:
    """Of a prompt the last tokens up to a settled place, those behind it, and what is known there.

    Looks no further back than it must: over the bytes that spell characters at the very end, and a few tokens more.
    """
    end: list[tuple[int, str]] = []
    context = 0
    for token in reversed(prompt):
        written = decoding.written(token)
        if written is None:
            continue
        end.append((token, written))
        loose = decoding.only_whole or (decoding.by_fallback and spelled_byte(written) is not None)
        context = 0 if loose else context + 1
        if context == _CONTEXT_TOKENS:
            break
    end.reverse()
    settling, settled = _Settling(decoding), 0
    for number, (_, written) in enumerate(end, 1):
        if settling.take(written):
            settled = number
    tokens = [token for token, _ in end]
    return tokens[:settled], tokens[settled:], settling


def _kinds(decoder: Any) -> Iterable[dict[str, Any]]:
    """The decoders that a tokenizer's decoder consists of, as tokenizer.json describes them."""
    if decoder is None:
        return
    described = json.loads(decoder.__getstate__())
    if described["type"] == "Sequence":
        yield from described["decoders"]
    else:
        yield described


def _fused(kinds: Sequence[Mapping[str, Any]]) -> list[bool]:
    """For each decoder of a row, whether it sees the text as one piece instead of token by token."""
    names = [kind["type"] for kind in kinds]
    return ["Fuse" in names[:index] or "ByteLevel" in names[:index] for index in range(len(names))]


def _looks_ahead(kind: Mapping[str, Any], fused: bool) -> bool:
    """Whether the decoder may change text because of what follows it, however far behind."""
    match kind:
        case {"type": "CTC"}:
            return True
        case {"type": "Strip", "stop": stop}:
            return fused and stop > 0
        case {"type": "Replace", "pattern": {"String": pattern}}:
            return fused and len(pattern) > 1
        case {"type": "Replace"}:
            return fused
    return False
