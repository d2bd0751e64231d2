"""Grammars over a vocabulary of bytes and of some special tokens, and texts as its tokens."""

from collections.abc import Mapping

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serving.structure.checking import LIMITS
from serving.structure.formats import CallFormat


class Vocabulary:
    """Each byte, then these special tokens, then an end."""

    eos_token_id: int
    bos_token_id, special_token_ids = None, ()

    def __init__(self, *special: str) -> None:
        self.special: Mapping[str, int] = {token: 256 + index for index, token in enumerate(special)}
        self.eos_token_id = 256 + len(special)
        self.tokens = (*(bytes([byte]) for byte in range(256)), *[b""] * (len(special) + 1))
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(self), n_vocab=len(self.tokens), eos_token=self.eos_token_id, slices=[]
        )

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

    def matcher(self, grammar: str) -> LLMatcher:
        """At the grammar's beginning."""
        found = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        assert not found.is_error(), found.get_error()
        return found

    def tokens_of(self, text: str, form: CallFormat) -> list[int]:
        """A byte each, but for the marks that are special tokens."""
        found: list[int] = []
        while text:
            mark = next((mark for mark in self.special if mark in form.literals and text.startswith(mark)), None)
            found += text[0].encode() if mark is None else [self.special[mark]]
            text = text[len(mark or text[0]) :]
        return found

    def takes(self, matcher: LLMatcher, text: str, form: CallFormat) -> bool:
        """Whether the text is all that the grammar asks for."""
        tokens, going = self.tokens_of(text, form), matcher.deep_copy()
        return bool(going.try_consume_tokens(tokens) == len(tokens) and going.is_accepting())
