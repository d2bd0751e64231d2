"""Which tokens a request's grammar lets follow, worked out in threads while steps are computed.

The tokenizer of a vocabulary is made once and a grammar compiled once, and kept for those who send it again. Each request has
a matcher of its own, which takes its tokens and says, one bit a token, what may come next.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from cluster.errors import BadGrammar
from cluster.wire.requests import MOST_WORDS, Grammar, Words

_log = logging.getLogger(__name__)
_KEPT = 16
"""Grammars that are kept compiled, those used last."""
_THREADS = 4
"""Masks at most that are worked out at once."""
_TOKENS_AT_ONCE = 8
"""Of an answer that goes on somewhere else: between so many others may run."""
_LIMITS = LLParserLimits(
    max_items_in_row=500,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    precompute_large_lexemes=True,
    verbose_errors=False,
)
"""A mask takes some 20 ms at most, a token that is taken some 2 ms, a grammar's lexer some 100 MB. An error on the way tells
nothing of what was written."""
_NOTHING = "NoExtensionBias"
_QUIET_S = 30.0
"""What llguidance makes of a vocabulary it makes with the interpreter held: half a second of a core for the largest. So long
it takes only where others take the cores."""
_CHARACTERS = 300
"""Of a fault's sentence at most."""
_AS_THE_MODEL_LIKES = '\n%llguidance {"no_forcing": true}\n'
"""Where only one text may follow, its tokens are chosen like others; forcing them needs more of a tokenizer than words."""


@dataclass(frozen=True)
class Trie:
    """So many `words` as llguidance takes them; it may know of an end beyond them where they have none."""

    tokenizer: LLTokenizer
    words: int


@dataclass(frozen=True)
class Compiled:
    """A grammar over so many words; `matcher` stands at its beginning and is only copied."""

    matcher: LLMatcher
    words: int


class Matching:
    """One request's way through its grammar. Used by one thread, which takes a token only when the mask before it is there.

    `over` when nothing may follow, `fault` says why it cannot go on.
    """

    def __init__(self, compiled: Future[Compiled], generated: Sequence[int], threads: ThreadPoolExecutor) -> None:
        self.compiled, self._threads = compiled, threads
        self._matcher: LLMatcher | None = None
        self._words = 0
        self._mask: Future[np.ndarray] = Future()
        self.started = self.over = False
        self.fault: str | None = None
        compiled.add_done_callback(lambda _done: self._work(lambda: self._start(generated)))

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Whether the mask is there, or never will be, within so much time."""
        if self.fault is None:
            try:
                self._mask.result(timeout_s)
            except NotYet:
                return False
            except BadGrammar as error:
                self.fault = str(error)
        self.started = True
        return True

    def allowed(self, vocabulary: int) -> np.ndarray:
        """Which of so many tokens may come next, a bit each in bytes of 8, the lowest first. Not to be changed."""
        mask, known = self._mask.result(), min(vocabulary, self._words)
        cut = np.zeros(-(-vocabulary // 8), dtype=np.uint8)
        cut[: known // 8] = mask[: known // 8]
        if known % 8:
            cut[known // 8] = mask[known // 8] & (1 << known % 8) - 1
        return cut

    def take(self, token: int) -> None:
        """The token was chosen. `look_ahead` is to follow when all of its step are taken: matchers of one grammar wait for
        each other."""
        assert self._matcher is not None
        if not self._matcher.consume_token(token):
            self.fault = _sentence(self._matcher)
        self.over = self.fault is None and self._matcher.is_stopped()

    def look_ahead(self) -> None:
        """Have the next mask worked out."""
        if self.fault is None and not self.over:
            self._mask = Future()
            self._work(self._next)

    def close(self) -> None:
        """Nobody wants to know any more."""
        self._mask.cancel()

    def _work(self, work: Callable[[], np.ndarray]) -> None:
        mask = self._mask

        def run() -> None:
            if not mask.set_running_or_notify_cancel():
                return
            try:
                mask.set_result(work())
            except BadGrammar as error:
                mask.set_exception(error)
            except BaseException as error:  # a panic of llguidance is no Exception
                _log.exception("a mask could not be worked out")
                mask.set_exception(BadGrammar(f"the grammar broke: {type(error).__name__}"))

        self._threads.submit(run)

    def _start(self, generated: Sequence[int]) -> np.ndarray:
        compiled = self.compiled.result()
        self._matcher, self._words = compiled.matcher.deep_copy(), compiled.words
        for first in range(0, len(generated), _TOKENS_AT_ONCE):
            self._matcher.consume_tokens(list(generated[first : first + _TOKENS_AT_ONCE]))
        return self._next()

    def _next(self) -> np.ndarray:
        assert self._matcher is not None
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise BadGrammar(_sentence(self._matcher))
        return mask


class Grammars:
    """What the requests of a stage are kept to. Nothing here is waited for; used by one thread alone."""

    def __init__(self, quiet: Callable[[float], None] = lambda _within_s: None) -> None:
        """`quiet` is told, from another thread, for how long nothing else of the process may run; 0: it does again."""
        self._quiet = quiet
        self._tries: OrderedDict[str, Future[Trie]] = OrderedDict()
        self._compiled: OrderedDict[tuple[str, str], Future[Compiled]] = OrderedDict()
        self._compiler = ThreadPoolExecutor(1, "grammars")
        self._threads = ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0))), "masks")

    def learn(self, digest: str, words: Callable[[], Words]) -> None:
        """From now on the digest stands for these words, which are asked for in another thread."""
        known = self._tries.pop(digest, None)
        if known is not None and known.done() and known.exception() is not None:
            known = None
        while len(self._tries) >= MOST_WORDS:
            self._tries.popitem(last=False)
        self._tries[digest] = known or self._compiler.submit(self._make, words)

    def begin(self, grammar: Grammar, generated: Sequence[int]) -> Matching:
        """Of a request that has so much of its answer."""
        return Matching(self.compile(grammar), generated, self._threads)

    def compile(self, grammar: Grammar) -> Future[Compiled]:
        """Soon or already."""
        key = self._digest(grammar.words), grammar.text
        found = self._compiled.pop(key, None)
        if found is None:
            trie = self._tries.get(key[0])
            found = self._compiler.submit(_compile, trie, grammar.text)
        while len(self._compiled) >= _KEPT:
            self._compiled.popitem(last=False)
        self._compiled[key] = found
        return found

    def _make(self, words: Callable[[], Words]) -> Trie:
        found = words()
        self._quiet(_QUIET_S)
        try:
            return _trie(found)
        finally:
            self._quiet(0.0)

    def _digest(self, words: Words | str) -> str:
        if isinstance(words, str):
            return words
        if words.digest not in self._tries:
            self.learn(words.digest, lambda: words)
        return words.digest

    def end(self, matching: Matching) -> None:
        """The request is over. A grammar that broke is not used again: matchers share what their lexer has found."""
        matching.close()
        if matching.fault is not None:
            _log.warning("a request ended: %s", matching.fault)
            self._compiled = OrderedDict(
                (key, found) for key, found in self._compiled.items() if found is not matching.compiled
            )


class _Vocabulary:
    """Words as llguidance takes them."""

    def __init__(self, words: Words) -> None:
        ends = frozenset(words.ends)
        self.tokens = [b"" if token in ends else text for token, text in enumerate(words.tokens)]
        self.eos_token_id = words.ends[0] if words.ends else None
        self.bos_token_id = None

    def __call__(self, _text: bytes) -> list[int]:
        raise NotImplementedError("asked for by grammars that force their tokens, and none here does")


def _trie(words: Words) -> Trie:
    """BadGrammar if the words are of no use. An end has no text: nothing that a grammar calls text may end an answer."""
    wrapper = TokenizerWrapper(_Vocabulary(words))
    try:
        tokenizer = LLTokenizer(wrapper, eos_token=list(words.ends) or None, slices=[])
    except (ValueError, TypeError, OverflowError) as error:
        raise BadGrammar(f"the vocabulary's words are of no use: {error}") from error
    wrapper.tokens = wrapper._gtokenizer.tokens = []
    sliced = tokenizer.with_slices(LLTokenizer.general_slices())  # apart: others run in between
    return Trie(sliced, len(words.tokens))


def _compile(made: Future[Trie] | None, text: str) -> Compiled:
    """BadGrammar if it is none, or too large."""
    if made is None:
        raise BadGrammar("nobody told of the words that the grammar is over")
    trie = made.result()
    matcher = LLMatcher(trie.tokenizer, text + _AS_THE_MODEL_LIKES, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise BadGrammar(_sentence(matcher))
    return Compiled(matcher, trie.words)


def _sentence(matcher: LLMatcher) -> str:
    """What is wrong, in one line."""
    found = matcher.get_error().strip().split("\n", 1)[0]
    found = "none of the words may follow" if found == _NOTHING else found
    return f"the grammar cannot be kept to: {found[:_CHARACTERS]}"
