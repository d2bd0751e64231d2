"""Whether a grammar can be kept to: what a text process finds out before a replica is asked to."""

import re
from collections.abc import Iterator
from functools import cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from cluster.wire.requests import GRAMMAR_CHARACTERS
from serving.structure.formats import CallFormat
from serving.structure.grammars import grammar_of
from serving.structure.values import SpecialOf
from serving.structure.wanted import Wanted

LIMITS = LLParserLimits(
    max_items_in_row=500,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""None is wider than where tokens are chosen: what is tried here is not refused there for its size."""
_REASON_LETTERS = 300
_NOT_SAID = re.compile(r"^(at \d+\(\d+\): )?(failed to compile JSON schema: )?")
_POINTED_AT = re.compile(r"^error: (.+)$", re.MULTILINE)
_NOTHING, _NOTHING_SAID = "NoExtensionBias", "nothing can be written that keeps to it"
_TOO_MUCH = re.compile(r"Current row has \d+ items|Too many items")
_TOO_MUCH_SAID = (
    "too much may follow at one place, as where an object begins that has more than a hundred properties none of which is "
    "required"
)
_SPECIAL, _END = 256, 257
_WRITTEN_TOKENS = 96
_BLANKS = b" \n\t\r"
_RATHER = (*b'{"[', *(byte for byte in range(256) if byte not in b'{"[' + _BLANKS), _SPECIAL, *_BLANKS)
"""What is written first where several tokens may be: what opens something."""


class Unusable(Exception):
    """Nothing can be made of what is wanted; `param` is the request's field at fault."""

    def __init__(self, reason: str, param: str) -> None:
        super().__init__(reason)
        self.param = param


def checked_grammar(wanted: Wanted, form: CallFormat, special_of: SpecialOf) -> str:
    """The grammar of what is wanted, over the tokens that `special_of` knows. Unusable if it cannot be kept to."""

    def known(literal: str) -> int | None:
        return None if special_of(literal) is None else _SPECIAL

    reason, parts = _fault(wanted, form, known), list(_parts(wanted))
    for part, param in parts:
        if part != wanted and (of_part := _fault(part, form, known)) is not None:
            raise Unusable(of_part, param)
    if reason is not None:
        raise Unusable(reason, parts[0][1])
    return grammar_of(wanted, form, special_of)


def _parts(wanted: Wanted) -> Iterator[tuple[Wanted, str]]:
    if wanted.form is not None:
        yield Wanted(wanted.form), wanted.form.param
    for tool in wanted.tools:
        yield Wanted(None, (tool,), required=True), tool.param


def _fault(wanted: Wanted, form: CallFormat, special_of: SpecialOf) -> str | None:
    """Why it cannot be kept to."""
    try:
        grammar = grammar_of(wanted, form, special_of)
    except Exception as error:  # what converts other grammars raises what it likes
        return _sentence(str(error))
    if len(grammar) > GRAMMAR_CHARACTERS:
        return (
            f"written as a grammar it has {len(grammar)} letters, more than the {GRAMMAR_CHARACTERS} that one may have"
        )
    matcher = LLMatcher(_letters(), grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error() and not _goes_on(matcher):
        return _NOTHING_SAID
    return _sentence(matcher.get_error()) if matcher.is_error() else None


def _goes_on(matcher: LLMatcher) -> bool:
    """Write the beginning of an answer: that very much may follow, or nothing, shows only where it does. False if nothing."""
    for _ in range(_WRITTEN_TOKENS):
        mask = matcher.compute_bitmask()
        token = next((token for token in _RATHER if mask[token >> 3] >> (token & 7) & 1), None)
        if token is None:
            return any(mask)
        if not matcher.consume_token(token) or matcher.is_stopped():
            break
    return True


@cache
def _letters() -> LLTokenizer:
    """A vocabulary of all bytes, a special token and an end: what a grammar allows does not hang on more."""
    return LLTokenizer(TokenizerWrapper(_Letters()), n_vocab=_END + 1, eos_token=_END, slices=[])


class _Letters:
    eos_token_id = _END
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"", b"")
    special_token_ids = ()

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _sentence(reason: str) -> str:
    """Of what the library says the first line, without the place in a grammar that nobody has seen; and why, if that stands
    below a pattern."""
    first = next(filter(None, map(str.strip, reason.splitlines())), "")
    if not first or first.startswith("panic"):
        return "it cannot be read"
    if first == _NOTHING:
        return _NOTHING_SAID
    if _TOO_MUCH.search(first) is not None:
        return _TOO_MUCH_SAID
    if first.endswith(":") and (why := _POINTED_AT.search(reason)) is not None:
        first = f"{first} {why[1]}"
    return _NOT_SAID.sub("", first)[:_REASON_LETTERS].encode(errors="replace").decode()
