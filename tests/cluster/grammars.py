"""Grammars over the words of tokenizers, and what transformers says when llguidance alone keeps it to one."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, apply_token_bitmask_inplace, fill_next_token_bitmask
from transformers import PreTrainedTokenizerFast

from cluster.wire.requests import Words

END = 2
PIECES = (b'{"', b'":', b'"a"', b'"b"', b'",', b'"}', b" true", b"12", b"\n", b"\xc3", b"\xa9", b"\xe2\x82")
_FIRST_PIECE = 160
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 6}, "b": {"type": "boolean"}, "c": {"enum": [1, 12, "x"]}},
    "required": ["a", "b", "c"],
    "additionalProperties": False,
}
_UNFORCED = '%llguidance {"no_forcing": true}\n'


def json_of(schema: Any) -> str:
    """The grammar of one schema, with no blanks."""
    return f"start: %json {json.dumps({**schema, 'x-guidance': {'whitespace_flexible': False}})}"


def words_of(tokens: Sequence[bytes], *ends: int) -> Words:
    digest = hashlib.sha256(repr((tokens, ends)).encode()).hexdigest()
    return Words(digest, tuple(tokens), ends)


def byte_words(vocabulary: int = 256) -> Words:
    """A token a byte of ASCII, some of several bytes or of half a letter, END, and no text for the others."""
    pieces = {_FIRST_PIECE + i: piece for i, piece in enumerate(PIECES)}
    return words_of([pieces.get(token, bytes([token]) if 8 < token < 128 else b"") for token in range(vocabulary)], END)


def tokenizer_words(tokenizer: PreTrainedTokenizerFast) -> Words:
    """Those of a byte-level tokenizer, as its own decoder spells them."""
    special = set(tokenizer.all_special_ids)
    to_bytes = {letter: byte for byte, letter in _letters().items()}
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spelt = [b"" if i in special else bytes(to_bytes[letter] for letter in name) for i, name in enumerate(names)]
    assert tokenizer.eos_token_id is not None
    return words_of(spelt, tokenizer.eos_token_id)


def _letters() -> dict[int, str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def text_of(words: Words, tokens: Sequence[int]) -> str:
    return b"".join(b"" if token in words.ends else words.tokens[token] for token in tokens).decode()


def matcher_of(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    matcher = LLMatcher(tokenizer, _UNFORCED + text)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def spoken(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, text: str, prompt: Sequence[int], most: int
) -> list[int]:
    """What the unsplit model says greedily, kept to the grammar by llguidance's own reading of the tokenizer."""
    own = from_tokenizer(tokenizer)
    matcher, tokens = matcher_of(own, text), list[int]()
    with torch.inference_mode():
        while len(tokens) < most and not matcher.is_stopped():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1:].float().numpy()
            mask = allocate_token_bitmask(1, own.vocab_size)
            fill_next_token_bitmask(matcher, mask)
            apply_token_bitmask_inplace(logits, mask)
            tokens.append(int(logits.argmax()))
            assert matcher.consume_token(tokens[-1])
    return tokens
