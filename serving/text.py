"""Between text and tokens: a model's tokenizer and chat template, and text that comes out token by token."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jinja2.exceptions import TemplateError

from serving.decoding import Decoding, TokenDecoder, letters_bytes, spelled_byte
from serving.errors import BadRequest

_BEFORE = "a"
"""Stands before a token that is decoded by itself: some decoders drop the space at the start of a text."""


@dataclass(frozen=True)
class TokenText:
    """A token by itself: how it is called, and its bytes in an answer's text, None if it is never part of one.

    Bytes that are no whole character are called by their numbers, as in \\xf0\\x9f.
    """

    text: str
    data: bytes | None

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(data.decode("utf-8", "backslashreplace"), data)

    @classmethod
    def unnamed(cls, token: int) -> Self:
        """A token that no tokenizer knows."""
        return cls(f"token_id:{token}", None)


def preload() -> None:
    """Import what the first tokenizer needs."""
    import transformers.models.auto.tokenization_auto
    import transformers.tokenization_utils_tokenizers  # noqa: F401


class ModelText:
    """A model's tokenizer, from the files that were published with it. Thread-safe for what is called here."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory(prefix="firsttoken-tokenizer-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        self._decoding = Decoding(self._tokenizer.backend_tokenizer)
        self._added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self._token_texts: dict[int, TokenText] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with what the tokenizer adds at its start."""
        return list(self._tokenizer(text)["input_ids"])

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation by the model's own template, ready for the assistant's turn."""
        if not self._tokenizer.chat_template:
            raise BadRequest("this model has no chat template: use /v1/completions", "model")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise BadRequest(f"the model's chat template refuses these messages: {error}", "messages") from error
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoder(self, prompt: Sequence[int]) -> TokenDecoder:
        """A fresh decoder for one answer to `prompt`."""
        return TokenDecoder.behind(self._decoding, prompt)

    def token(self, token: int) -> TokenText:
        """What `token` is by itself, within a text."""
        known = self._token_texts.get(token)
        if known is None:
            known = self._token_texts[token] = self._token(token)
        return known

    def _token(self, token: int) -> TokenText:
        tokenizer = self._tokenizer.backend_tokenizer
        written = tokenizer.id_to_token(token)
        if written is None:
            return TokenText.unnamed(token)
        if token in self._added and self._added[token].special:
            return TokenText(written, None)
        return TokenText.of(_bytes_of(written, tokenizer.decoder))


def _bytes_of(written: str, decoder: Any) -> bytes:
    """The bytes of a token as the vocabulary writes it; a part of a character is found where it is spelled in bytes."""
    if decoder is None:
        return written.encode()
    text = str(decoder.decode([_BEFORE, written])).removeprefix(_BEFORE)
    if "\ufffd" not in text:
        return text.encode()
    byte = spelled_byte(written)
    return bytes([byte]) if byte is not None else letters_bytes(written)


class StopStrings:
    """Cuts text off before the stop string that is complete first, in whatever pieces the text comes.

    Of several that are complete at once, the longest counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """What may be shown now; `hit` says that a stop string came and nothing follows."""
        if not self._stops:
            return text
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        keep = max(self._begun(stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back in case a stop string had begun, at the end of the answer."""
        shown, self._held = self._held, ""
        return shown

    def _begun(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if stop.startswith(self._held[-length:]):
                return length
        return 0
