"""Choosing what a grammar allows: on the host and where the logits are, whatever else is asked; nobody waits for others'."""

import json
import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.stage.choosing.batch import Chooser, Pending, chooser_on
from cluster.stage.choosing.bounded import begin_bounded
from cluster.stage.choosing.grammars import Grammars, Matching
from cluster.stage.choosing.sampling import Sampler
from cluster.stage.choosing.trips import Trips
from cluster.stage.steps import Choice
from cluster.wire.requests import MOST_WORDS, Grammar, Sampling, Words
from tests.cluster.grammars import END, SCHEMA, byte_words, json_of, text_of, words_of
from tests.device import DEVICE

_WITHIN_S = 30.0
_WORDS = byte_words()
_GREEDY = Sampling(temperature=0.0)
_OBJECT = Grammar(json_of(SCHEMA), _WORDS)
_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(0.0, 3.0),
    top_p=st.just(1.0) | st.floats(0.0, 1.0),
    top_k=st.just(0) | st.integers(0, 260),
    seed=st.integers(0, 2**32),
    presence_penalty=st.just(0.0) | st.floats(-2, 2),
    frequency_penalty=st.just(0.0) | st.floats(-2, 2),
    repetition_penalty=st.just(1.0) | st.floats(0.0, 2.0),
    min_p=st.just(0.0) | st.floats(0.0, 1.0),
    logit_bias=st.lists(st.tuples(st.integers(0, 255), st.floats(-100, 100)), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 5),
)


class _Mark:
    def synchronize(self) -> None:
        pass


def _chooser() -> Chooser:
    """The one of a device, here or there."""
    if DEVICE.type == "cuda":
        return chooser_on(DEVICE)
    return Chooser(Trips(DEVICE, lambda size_bytes: torch.empty(size_bytes, dtype=torch.uint8), _Mark), 1 << 20)


def _begun(grammar: Grammar, generated: Sequence[int] = (), grammars: Grammars | None = None) -> Matching:
    matching = (grammars or Grammars()).begin(grammar, generated)
    assert matching.ready(_WITHIN_S)
    return matching


def _sampler(
    sampling: Sampling, matching: Matching | None, generated: Sequence[int] = (), stops_from: int = 0
) -> Sampler:
    return Sampler(sampling, (5, 6), generated, (END, ord("{")), stops_from, matching)


def _step(chooser: Chooser, samplers: Sequence[Sampler], logits: torch.Tensor, position: int) -> list[Choice]:
    pending = begin_bounded(chooser, samplers, logits, [position] * len(samplers))
    return pending.result()


def _logits(seed: int, rows: int, vocabulary: int, kind: str) -> torch.Tensor:
    """Of one step. Low ones are the least that there are, but for one token that no grammar here allows."""
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4
    if kind == "low":
        logits.fill_(-torch.inf)[:, min(200, vocabulary - 1)] = 1.0
    return logits.round() if kind == "equals" else logits


@pytest.mark.gpu
@settings(max_examples=25)
@given(
    st.lists(st.tuples(_SAMPLINGS, st.integers(0, 9), st.booleans()), min_size=1, max_size=4), st.integers(0, 2**32 - 1),
    st.sampled_from(["plain", "equals", "low"]), st.sampled_from([130, 200, 256, 300]),
)  # fmt: skip
def test_whatever_is_asked_an_answer_keeps_to_its_grammar_and_others_are_what_they_are_alone(
    requests: list[tuple[Sampling, int, bool]], seed: int, kind: str, vocabulary: int
) -> None:
    """The very same tokens from the host and from where the logits are; a stop that a grammar needs comes at any time."""
    grammars = Grammars()

    def samplers() -> list[Sampler]:
        return [
            _sampler(asked, _begun(_OBJECT, (), grammars) if kept else None, stops_from=2 + least)
            for asked, least, kept in requests
        ]

    here, there, chosen = samplers(), samplers(), [[] for _ in requests]
    device, going = _chooser(), list(range(len(requests)))
    for step in range(60):
        if not going:
            break
        rows = _logits(seed + step, len(requests), vocabulary, kind)[going]
        found = _step(Chooser(None), [here[i] for i in going], rows, 2 + step)
        assert [c.token for c in _step(device, [there[i] for i in going], rows.to(DEVICE), 2 + step)] == [
            c.token for c in found
        ]
        for i, choice in zip(going, found, strict=True):
            assert choice.token is not None, choice
            chosen[i].append(choice.token)
        going = [i for i, choice in zip(going, found, strict=True) if not choice.over]
    for row, ((asked, least, kept), tokens) in enumerate(zip(requests, chosen, strict=True)):
        if kept:
            value = json.loads(text_of(_WORDS, tokens))
            assert list(value) == ["a", "b", "c"]
            assert value["c"] in (1, 12, "x")
        else:
            alone = _sampler(asked, None, stops_from=2 + least)
            rows = [_logits(seed + step, len(requests), vocabulary, kind) for step in range(len(tokens))]
            assert tokens == [alone.choose(logits[row], 2 + step).token for step, logits in enumerate(rows)]


@settings(max_examples=20)
@given(_SAMPLINGS, st.integers(0, 2**32 - 1), st.data())
def test_what_follows_a_part_of_an_answer_is_the_same_elsewhere(
    sampling: Sampling, seed: int, data: st.DataObject
) -> None:
    def rest(generated: list[int]) -> list[int]:
        tokens, matching = list(generated), _begun(_OBJECT, generated)
        sampler = _sampler(sampling, matching, generated)
        while not matching.over:
            logits = _logits(seed + len(tokens), 1, 256, "plain")
            (choice,) = _step(Chooser(None), [sampler], logits, 2 + len(tokens))
            assert choice.token is not None
            tokens.append(choice.token)
        return tokens

    whole = rest([])
    had = data.draw(st.integers(0, len(whole) - 1))
    assert rest(whole[:had]) == whole


def test_an_answer_ends_rather_than_break_its_grammar() -> None:
    """The least number of tokens is not reached, and nothing but its end may follow."""
    sampler = _sampler(_GREEDY, _begun(Grammar('start: "ab"?', _WORDS), [ord("a"), ord("b")]), stops_from=100)
    logits = torch.zeros(1, 256)
    assert _step(Chooser(None), [sampler], logits, 4) == [Choice(END, over=True)]


def test_it_goes_on_instead_of_ending_while_it_may_and_has_too_few_tokens() -> None:
    sampler = _sampler(_GREEDY, _begun(Grammar("start: /[ab]{1,9}/", _WORDS), [ord("a")]), stops_from=5)
    logits = torch.zeros(1, 256)
    logits[0, END] = 9.0
    tokens = [_step(Chooser(None), [sampler], logits, position)[0].token for position in (3, 4, 5)]
    assert tokens == [ord("a"), ord("a"), END]


def test_it_is_over_with_the_token_after_which_nothing_may_follow() -> None:
    sampler = _sampler(_GREEDY, _begun(Grammar('start: "ab"', _WORDS)))
    found = [_step(Chooser(None), [sampler], torch.zeros(1, 256), 2 + step)[0] for step in range(2)]
    assert found == [Choice(ord("a")), Choice(ord("b"), over=True)]


def test_an_end_is_no_text() -> None:
    """Though the words spell it out, it does not stand inside of a string."""
    words = words_of([bytes([token]) for token in range(128)], ord("!"))
    sampler = Sampler(_GREEDY, (), (), (), 0, _begun(Grammar('start: /"[^"]*"/', words), list(b'"a')))
    logits = torch.zeros(1, 128)
    logits[0, ord("!")] = 9.0
    assert _step(Chooser(None), [sampler], logits, 2)[0].token != ord("!")


def test_where_no_word_ends_an_answer_none_beyond_them_does() -> None:
    """The model's logits are of more tokens than there are words."""
    sampler = Sampler(_GREEDY, (), (), (), 0, _begun(Grammar("start: /a{1,3}/", words_of([b"a"]))))
    logits = torch.zeros(1, 20)
    logits[0, 1:] = 9.0
    found = [_step(Chooser(None), [sampler], logits, position)[0] for position in range(3)]
    assert found == [Choice(0), Choice(0), Choice(0, over=True)]


def test_a_token_that_is_no_text_is_called_by_its_number() -> None:
    matching = _begun(Grammar('start: <[200]> "a"', _WORDS))
    sampler = _sampler(_GREEDY, matching)
    found = [_step(Chooser(None), [sampler], torch.zeros(1, 256), 2 + step)[0] for step in range(2)]
    assert found == [Choice(200), Choice(ord("a"), over=True)]


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (Grammar('start: %json {"type": "nope"}', _WORDS), "Invalid type: nope"),
        (Grammar("start: /[a/", _WORDS), "invalid regex"),
        (Grammar("", _WORDS), "rammar"),
        (Grammar(json_of(SCHEMA), "nobody's"), "nobody told"),
        (Grammar(json_of(SCHEMA), words_of([b"a"], 7)), "7 is out of range"),
        (Grammar(json_of(SCHEMA), words_of([b"a"], 0)), "none of the words may follow"),
        (Grammar('start: x "b"\nx: x x x | x x | "a"', _WORDS), "max is 500"),
    ],
    ids=["schema", "regex", "empty", "unknown words", "an end beyond them", "no word fits", "too complex"],
)  # fmt: skip
def test_a_grammar_that_cannot_be_kept_to_is_one_sentence(grammar: Grammar, why: str) -> None:
    sampler = _sampler(_GREEDY, _begun(grammar, [ord("a")] * 130 if "x x x" in grammar.text else ()))
    (choice,) = _step(Chooser(None), [sampler], torch.zeros(1, 256), 2)
    assert choice.token is None
    assert choice.fault is not None
    assert why in choice.fault
    assert "\n" not in choice.fault


def test_tokens_that_do_not_fit_the_grammar_end_the_request() -> None:
    assert "doesn't satisfy" in str(_begun(_OBJECT, [ord("x")]).fault)


def test_words_that_the_model_has_not_are_not_chosen() -> None:
    """Its logits are of fewer tokens; where none of those may follow the request ends."""
    sampler = _sampler(_GREEDY, _begun(Grammar('start: "a" | "z"', _WORDS)))
    logits = torch.zeros(1, 100)
    assert _step(Chooser(None), [sampler], logits, 2)[0].token == ord("a")
    sampler = _sampler(_GREEDY, _begun(Grammar('start: "z"', _WORDS)))
    (choice,) = _step(Chooser(None), [sampler], logits, 2)
    assert (choice.token, choice.fault) == (
        None,
        "the grammar cannot be kept to: the model has none of the tokens that may follow",
    )


def test_nobody_waits_for_anothers_grammar() -> None:
    """Whose words are not there yet comes again; those beside it are given their tokens. Alone it waits a moment."""
    grammars, there = Grammars(), threading.Event()

    def words() -> Words:
        assert there.wait(_WITHIN_S)
        return _WORDS

    grammars.learn(_WORDS.digest, words)
    slow = grammars.begin(Grammar(json_of(SCHEMA), _WORDS.digest), ())
    samplers = [_sampler(_GREEDY, slow), _sampler(_GREEDY, None)]
    logits = torch.zeros(2, 256)
    logits[:, 77] = 1.0
    assert _step(Chooser(None), samplers, logits, 2) == [Choice(None, later=True), Choice(77)]
    assert _step(Chooser(None), samplers[:1], logits[:1], 2) == [Choice(None, later=True)]
    there.set()
    assert slow.ready(_WITHIN_S)
    assert _step(Chooser(None), samplers, logits, 3)[0].token == ord("{")


def test_who_watches_the_process_is_told_when_nothing_of_it_may_run() -> None:
    """Once for a vocabulary, and whatever becomes of it."""
    told: list[float] = []
    grammars = Grammars(told.append)
    for _ in range(2):
        _begun(Grammar('start: "a"', words_of([b"a"], 7)), (), grammars)
    assert [within_s > 0 for within_s in told] == [True, False]


def test_a_grammar_is_compiled_once_and_few_are_kept() -> None:
    grammars = Grammars()
    first = grammars.compile(_OBJECT)
    assert grammars.compile(Grammar(_OBJECT.text, _WORDS.digest)) is first
    for number in range(15):
        grammars.compile(Grammar(f'start: "{number}"', _WORDS))
    assert grammars.compile(_OBJECT) is first
    for number in range(16):
        grammars.compile(Grammar(f'start: "{number}"', _WORDS))
    assert grammars.compile(_OBJECT) is not first


def test_a_grammar_that_broke_is_compiled_anew() -> None:
    grammars = Grammars()
    broken, good = _begun(_OBJECT, [ord("x")], grammars), _begun(_OBJECT, (), grammars)
    grammars.end(good)
    assert grammars.compile(_OBJECT) is good.compiled
    grammars.end(broken)
    assert grammars.compile(_OBJECT) is not good.compiled


def test_the_words_that_were_told_first_are_forgotten_first() -> None:
    grammars = Grammars()
    vocabularies = [words_of([*_WORDS.tokens, b"%d" % number], END) for number in range(MOST_WORDS + 1)]
    for words in vocabularies:
        grammars.learn(words.digest, lambda words=words: words)  # type: ignore[misc]
    faults = [_begun(Grammar('start: "a"', words.digest), (), grammars).fault for words in vocabularies]
    assert [fault is None for fault in faults] == [False] + [True] * MOST_WORDS


def test_a_request_that_is_over_before_its_grammar_is_compiled_takes_nobodys_time() -> None:
    grammars, there = Grammars(), threading.Event()
    grammars.learn("d", lambda: (there.wait(_WITHIN_S), _WORDS)[1])
    matching = grammars.begin(Grammar(json_of(SCHEMA), "d"), ())
    grammars.end(matching)
    there.set()
    assert _begun(Grammar('start: "a"', "d"), (), grammars).fault is None
    assert matching._matcher is None


def test_the_likeliest_of_those_who_ask_nothing_else_is_found_for_all_of_them_at_once() -> None:
    """Beside one that has a grammar, and one whose logits are no numbers."""
    samplers: list[Sampler] = [_sampler(_GREEDY, None), _sampler(_GREEDY, _begun(_OBJECT)), _sampler(_GREEDY, None)]
    logits = torch.zeros(3, 256)
    logits[0, 9], logits[2, 7] = 1.0, torch.nan
    found = _step(Chooser(None), samplers, logits, 2)
    assert [choice.token for choice in found] == [9, ord("{"), None]


def test_what_is_pending_is_for_nobody_to_run_ahead_of() -> None:
    pending: Pending = begin_bounded(
        _chooser(), [_sampler(_GREEDY, _begun(_OBJECT))], torch.zeros(1, 256, device=DEVICE), [2]
    )
    assert pending.tokens is None
    assert not _sampler(_GREEDY, _begun(_OBJECT)).foreseeable
    pending.result()
