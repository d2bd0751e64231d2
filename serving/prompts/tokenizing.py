"""A model's own tokenizer and chat template at work: what a text process does. Both came with the model and may be bad."""

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from storage_tiers.errors import SourceError
from storage_tiers.tokenizers import check_decoder, read_tokenizer

LETTERS_PER_TOKEN = 6
SHORT_LETTERS = 1 << 15
PIECE_LETTERS = 1 << 16
CUT_TOKENS = 64
"""A text of more letters than LETTERS_PER_TOKEN for each token of the context is counted in pieces first. A cut may make
so many tokens more than there are; it is made before a space if one is near."""
_NEAR_LETTERS = 1 << 10

MAX_TOKEN_LETTERS = 4096
_REASON_LETTERS = 500


class Refusal(Exception):
    """It cannot be done with this tokenizer or this template; `param` is the request's field at fault."""

    def __init__(self, reason: str, param: str) -> None:
        super().__init__(reason[:_REASON_LETTERS])
        self.param = param


class ContextExceeded(Exception):
    """A text has more tokens than the context."""


def preload() -> None:
    """Import what the first tokenizer needs."""
    import transformers.models.auto.tokenization_auto
    import transformers.tokenization_utils_tokenizers
    import transformers.utils.chat_template_utils  # noqa: F401


class PromptTokenizer:
    """A tokenizer as transformers reads it from `folder`. Refusal if it cannot, or if answers could not be decoded safely."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = read_tokenizer(folder)
            self._tokenizer("")  # from here on the library below is set as for every text: nothing is cut off or padded
            self._backend = self._tokenizer.backend_tokenizer
        except Exception as error:  # whatever a damaged or unknown tokenizer makes transformers raise
            raise Refusal(f"its tokenizer cannot be read: {type(error).__name__}: {error}", "model") from error
        self._decoder = json.loads(self._backend.decoder.__getstate__()) if self._backend.decoder is not None else None
        try:
            check_decoder(self._decoder)
        except SourceError as error:
            raise Refusal(str(error), "model") from error

    def encode(self, text: str, context_tokens: int, special: bool = True) -> "array[int]":
        """The tokens of a text, with what the tokenizer adds at its start if `special`.

        Of a text that is much too long for the context they are not made: ContextExceeded. It is as long as its pieces
        together, but for what the cuts between them may add, so nothing that fits is refused.
        """
        if len(text) > max(LETTERS_PER_TOKEN * context_tokens, SHORT_LETTERS):
            self._count(text, context_tokens)
        return array("i", self._ids(text, special))

    def render(self, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> str:
        """A conversation as the model's own template writes it, ready for the assistant's turn."""
        if not self._tokenizer.chat_template:
            raise Refusal("this model has no chat template: use /v1/completions", "model")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **arguments
            )
            text.encode()
        except TemplateError as error:
            raise Refusal(f"the model's chat template refuses these messages: {error}", "messages") from error
        except Exception as error:  # templates are programs: they raise what they like
            said = f"{type(error).__name__}: {error}"
            raise Refusal(f"the model's chat template fails on these messages: {said}", "messages") from error
        return str(text)

    def export(self) -> bytes:
        """A tokenizer that has the same tokens and decoder, and nothing that is needed for prompts only."""
        added = self._backend.get_added_tokens_decoder()
        vocabulary = self._backend.get_vocab(with_added_tokens=False)
        vocabulary |= {token.content: number for number, token in added.items()}
        if max(map(len, vocabulary), default=0) > MAX_TOKEN_LETTERS:
            raise Refusal(f"its tokenizer has a token of more than {MAX_TOKEN_LETTERS} letters", "model")
        document = {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": self._decoder,
            "added_tokens": [_added_json(number, token) for number, token in sorted(added.items())],
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": ""},
        }  # fmt: skip
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    def _count(self, text: str, context_tokens: int) -> None:
        begin = counted = 0
        while begin < len(text):
            end = _cut(text, begin)
            counted += len(self._ids(text[begin:end], special=False)) - CUT_TOKENS
            if counted > context_tokens:
                raise ContextExceeded
            begin = end

    def _ids(self, text: str, special: bool) -> Sequence[int]:
        """As the tokenizer's own call gives them, at a third of its time: where in the text each token lies is not asked."""
        try:
            (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=special)
        except Exception as error:  # whatever a text makes the library raise
            raise Refusal(f"the model's tokenizer fails on this text: {error}", "model") from error
        ids: list[int] = encoding.ids
        return ids


def _cut(text: str, begin: int) -> int:
    """Where the piece from `begin` ends."""
    end = begin + PIECE_LETTERS
    if end >= len(text):
        return len(text)
    space = text.rfind(" ", end - _NEAR_LETTERS, end)
    return space if space > begin else end


def _added_json(number: int, token: Any) -> dict[str, Any]:
    return {
        "id": number, "content": token.content, "special": token.special, "normalized": False,
        "single_word": False, "lstrip": False, "rstrip": False,
    }  # fmt: skip
