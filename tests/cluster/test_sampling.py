"""Choosing tokens: a function of the logits, the parameters and (seed, position), of nothing else."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.stage.choosing.sampling import Sampler, choose_all, uniform
from cluster.stage.steps import Choice
from cluster.wire.requests import Sampling, TokenLogprobs

_GREEDY = Sampling(temperature=0.0)
_LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20).map(torch.tensor)
_TEXT = st.lists(st.integers(0, 19))
_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.0, 2.0),
    top_p=st.floats(0.01, 1.0),
    top_k=st.integers(0, 25),
    seed=st.integers(-(2**63), 2**63 + 15),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    repetition_penalty=st.floats(0.1, 2.0),
    min_p=st.floats(0.0, 1.0),
    logit_bias=st.lists(st.tuples(st.integers(0, 25), st.floats(-100, 100)), max_size=3, unique_by=lambda b: b[0]).map(
        tuple
    ),
    logprobs=st.none() | st.integers(0, 20),
)


def _draws(sampling: Sampling, logits: torch.Tensor, count: int) -> Counter[int]:
    """How often each token comes at positions 0, 1, ..., each chosen as if it were the first."""
    return Counter(_token(sampling, logits, position) for position in range(count))


def _token(sampling: Sampling, logits: torch.Tensor, position: int = 0, generated: Sequence[int] = ()) -> int:
    """The token that comes after `generated`."""
    return Sampler(sampling, [], generated).choose(logits, position).token


@given(_LOGITS, st.integers(0, 10**6))
def test_greedy_takes_the_largest(logits: torch.Tensor, position: int) -> None:
    assert _token(_GREEDY, logits, position) == int(logits.argmax())


def test_greedy_takes_the_first_among_equals() -> None:
    assert _token(_GREEDY, torch.tensor([1.0, 3.0, 3.0])) == 1


@given(_LOGITS, _SAMPLINGS, _TEXT, _TEXT, st.integers(0, 10**6))
def test_the_same_request_at_the_same_position_gets_the_same_token_wherever_it_runs(
    logits: torch.Tensor, sampling: Sampling, prompt: list[int], generated: list[int], position: int
) -> None:
    """One sampler has run all along, the other begins here with what was generated before."""
    prompt, generated = ([token % len(logits) for token in tokens] for tokens in (prompt, generated))
    running = Sampler(sampling, prompt, [])
    for token in generated:
        running.remember(token)
    resumed = Sampler(sampling, prompt, generated)
    assert running.choose(logits, position) == resumed.choose(logits, position)


@given(_LOGITS, _SAMPLINGS, st.integers(0, 10**6))
def test_what_torch_and_numpy_drew_before_changes_nothing(
    logits: torch.Tensor, sampling: Sampling, position: int
) -> None:
    first = _token(sampling, logits, position)
    torch.rand(3)
    np.random.default_rng().random(3)
    assert _token(sampling, logits, position) == first


@given(_LOGITS, _SAMPLINGS, st.integers(0, 10**6))
def test_the_logits_are_not_changed(logits: torch.Tensor, sampling: Sampling, position: int) -> None:
    before = logits.clone()
    Sampler(sampling, [0], [0]).choose(logits, position)
    assert torch.equal(logits, before)


@given(_LOGITS, st.integers(1, 25), st.integers(0, 100), st.integers(0, 10**6))
def test_top_k_leaves_the_k_largest(logits: torch.Tensor, top_k: int, seed: int, position: int) -> None:
    chosen = _token(Sampling(top_k=top_k, seed=seed), logits, position)
    probabilities = torch.softmax(logits.double(), 0)
    assert int((probabilities > probabilities[chosen]).sum()) < top_k


def test_a_top_k_that_is_no_less_than_the_vocabulary_leaves_all() -> None:
    """It left the 256 likeliest."""
    logits = torch.zeros(2000)
    plain, wide = (_draws(Sampling(top_k=top_k, seed=1), logits, 100) for top_k in (0, 2000))
    assert wide == plain
    assert max(wide) >= 256


@given(_LOGITS, st.floats(0.01, 0.99), st.integers(0, 100), st.integers(0, 10**6))
def test_top_p_leaves_the_fewest_tokens_that_reach_p(
    logits: torch.Tensor, top_p: float, seed: int, position: int
) -> None:
    chosen = _token(Sampling(top_p=top_p, seed=seed), logits, position)
    probabilities = torch.softmax(logits.double(), 0)
    assert float(probabilities[probabilities > probabilities[chosen]].sum()) < top_p + 1e-9


def test_top_p_counts_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert set(_draws(Sampling(top_k=2, top_p=0.5, seed=1), logits, 200)) == {0}
    assert set(_draws(Sampling(top_p=0.5, seed=1), logits, 200)) == {0, 1}


@pytest.mark.parametrize("temperature", [5e-324, 1e-9, 1e-3])
def test_a_temperature_close_to_zero_is_greedy(temperature: float) -> None:
    """The least temperatures overflowed to infinity, and the token was the least likely one."""
    logits = torch.tensor([1.0, 3.0, 2.0, -5.0])
    assert set(_draws(Sampling(temperature=temperature, seed=3), logits, 20)) == {1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    """Chi-square with 4 degrees of freedom: 30 is passed by chance once in 200,000 runs, and this run is fixed."""
    logits, count = torch.tensor([2.0, 0.5, 1.0, -0.5, 0.0]), 3000
    expected = torch.softmax(logits.double() / temperature, 0) * count
    drawn = _draws(Sampling(temperature=temperature, seed=11), logits, count)
    chi_square = sum((drawn[token] - float(mean)) ** 2 / float(mean) for token, mean in enumerate(expected))
    assert chi_square < 30


def test_positions_and_seeds_are_independent_of_each_other() -> None:
    by_position = [uniform(1, position) for position in range(2000)]
    by_seed = [uniform(seed, 1) for seed in range(2000)]
    for drawn in (by_position, by_seed):
        assert all(0.0 <= number < 1.0 for number in drawn)
        assert len(set(drawn)) == 2000
        assert abs(sum(drawn) / 2000 - 0.5) < 0.05
        neighbours = torch.corrcoef(torch.tensor([drawn[:-1], drawn[1:]]))[0, 1]
        assert abs(float(neighbours)) < 0.1


@given(st.integers(-(2**63), 2**63 + 15), st.lists(st.integers(0, 300), min_size=1))
def test_a_requests_numbers_are_those_of_its_positions_in_whatever_order(seed: int, positions: list[int]) -> None:
    sampler = Sampler(Sampling(seed=seed), [], [])
    assert [sampler.uniform(position) for position in positions] == [uniform(seed, position) for position in positions]


def test_other_seeds_give_other_texts() -> None:
    logits = torch.zeros(50)
    texts = {tuple(_token(Sampling(seed=seed), logits, at) for at in range(8)) for seed in range(20)}
    assert len(texts) == 20


def test_a_presence_penalty_counts_once_however_often_the_token_came() -> None:
    sampling = replace(_GREEDY, presence_penalty=1.0)
    logits = torch.tensor([2.0, 1.5, 0.0])
    assert _token(sampling, logits) == 0
    assert _token(sampling, logits, generated=[0]) == 1
    assert _token(sampling, logits, generated=[0, 0, 0, 1]) == 0


def test_a_frequency_penalty_grows_with_every_time_the_token_came() -> None:
    sampling = replace(_GREEDY, frequency_penalty=0.4)
    logits = torch.tensor([2.0, 1.5, 0.0])
    assert _token(sampling, logits, generated=[0]) == 0
    assert _token(sampling, logits, generated=[0, 0]) == 1


def test_what_was_just_chosen_is_penalised_next_time() -> None:
    sampler = Sampler(replace(_GREEDY, presence_penalty=2.0), [], [])
    assert [sampler.choose(torch.tensor([2.0, 1.5, 1.0]), at).token for at in range(4)] == [0, 1, 2, 0]


def test_a_negative_penalty_is_a_preference() -> None:
    sampling = replace(_GREEDY, presence_penalty=-1.0)
    assert _token(sampling, torch.tensor([2.0, 1.5]), generated=[1]) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_of_every_type_are_taken(dtype: torch.dtype) -> None:
    sampling = Sampling(seed=5, presence_penalty=0.5)
    assert _token(sampling, torch.tensor([-100.0, 100.0, 0.0], dtype=dtype), 7, [2]) == 1


_NO_NUMBERS = (
    [math.nan] * 3, [0.0, math.nan, 1.0], [-math.inf, math.nan, 0.0], [math.inf, 0.0, 0.0], [-math.inf] * 3,
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("sampling", [_GREEDY, replace(_GREEDY, logprobs=1), Sampling(seed=3, presence_penalty=0.5)])
def test_who_gets_no_numbers_gets_no_token_and_the_others_get_theirs(sampling: Sampling, dtype: torch.dtype) -> None:
    """A model that overflowed went on with arbitrary text: NaN counted as the greatest logit, or as the least."""
    rows = torch.tensor([[0.0, 9.0, 1.0], *_NO_NUMBERS, [-math.inf, -50.0, 3.0]], dtype=dtype)
    samplers = [Sampler(sampling, [0], [1, 1]) for _ in rows]
    tokens = [choice.token for choice in choose_all(samplers, rows, range(4, 4 + len(rows)))]
    assert tokens == [1, *[None] * len(_NO_NUMBERS), 2]


# ---- min_p


@given(_LOGITS, st.floats(0.01, 1.0), st.integers(0, 100), st.integers(0, 10**6))
def test_min_p_leaves_what_is_not_too_far_below_the_likeliest(
    logits: torch.Tensor, min_p: float, seed: int, position: int
) -> None:
    chosen = _token(Sampling(min_p=min_p, seed=seed), logits, position)
    probabilities = torch.softmax(logits.double(), 0)
    assert float(probabilities[chosen] / probabilities.max()) >= min_p - 1e-9


def test_min_p_is_measured_at_the_temperature() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    assert set(_draws(Sampling(min_p=0.4, seed=2), logits, 200)) == {0, 1}
    assert set(_draws(Sampling(min_p=0.4, seed=2, temperature=0.5), logits, 200)) == {0}


@given(_LOGITS, _SAMPLINGS, st.integers(0, 10**6))
def test_with_min_p_at_one_only_the_likeliest_are_left(logits: torch.Tensor, sampling: Sampling, position: int) -> None:
    plain = Sampling(min_p=1.0, seed=sampling.seed, top_p=sampling.top_p, top_k=sampling.top_k)
    chosen = _token(plain, logits, position)
    probabilities = torch.softmax(logits.double(), 0)
    assert float(probabilities[chosen]) == float(probabilities.max())


# ---- bias and the repetition penalty: what they do to a draw (to the likeliest token: test_odds.py)


def test_a_bias_changes_how_often_a_token_comes() -> None:
    """Three times as likely as each of the other two: three of five draws."""
    sampling = Sampling(seed=4, logit_bias=((1, math.log(3.0)),))
    drawn = _draws(sampling, torch.zeros(3), 3000)
    assert abs(drawn[1] / 3000 - 0.6) < 0.04
    assert abs(drawn[0] - drawn[2]) < 200


def test_a_bias_of_minus_100_bans_a_token_and_plus_100_allows_no_other() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0])
    assert set(_draws(Sampling(seed=4, logit_bias=((0, -100.0),)), logits, 300)) == {1, 2}
    assert set(_draws(Sampling(seed=4, logit_bias=((2, 100.0),)), logits, 300)) == {2}


def test_repetition_is_penalised_in_the_prompt_the_other_penalties_only_in_the_answer() -> None:
    logits = torch.tensor([2.0, 1.5])
    repetition = replace(_GREEDY, repetition_penalty=1.5)
    others = replace(_GREEDY, presence_penalty=2.0, frequency_penalty=2.0)
    assert Sampler(repetition, [0], []).choose(logits, 0).token == 1
    assert Sampler(others, [0], []).choose(logits, 0).token == 0


# ---- log probabilities


@given(_LOGITS, _SAMPLINGS, _TEXT, st.integers(0, 20))
def test_logprobs_are_the_models_own_whatever_is_adjusted(
    logits: torch.Tensor, sampling: Sampling, generated: list[int], count: int
) -> None:
    generated = [token % len(logits) for token in generated]
    choice = Sampler(replace(sampling, logprobs=count), [], generated).choose(logits, 5)
    expected = torch.log_softmax(logits, 0)
    assert choice.token == _token(sampling, logits, 5, generated), "asking for them changes nothing"
    assert choice.logprobs is not None
    assert choice.logprobs.logprob == pytest.approx(float(expected[choice.token]), abs=1e-5)
    top = choice.logprobs.top
    assert len({token for token, _ in top}) == len(top) == min(count, len(logits))
    assert [logprob for _, logprob in top] == pytest.approx(expected.sort(descending=True).values[: len(top)].tolist())
    assert all(logprob == pytest.approx(float(expected[token])) for token, logprob in top)


def test_nothing_is_told_that_was_not_asked_for() -> None:
    logits = torch.tensor([0.0, 1.0])
    assert Sampler(_GREEDY, [], []).choose(logits, 0) == Choice(1)
    chosen = Sampler(replace(_GREEDY, logprobs=0), [], []).choose(logits, 0)
    assert chosen == Choice(1, TokenLogprobs(pytest.approx(-math.log(1 + math.exp(-1.0)))))


def test_a_token_that_cannot_come_has_a_finite_log_probability() -> None:
    """JSON knows no infinity."""
    chosen = Sampler(replace(_GREEDY, logprobs=2), [], []).choose(torch.tensor([0.0, -math.inf]), 0)
    assert chosen == Choice(0, TokenLogprobs(0.0, ((0, 0.0), (1, -1e9))))


# ---- a batch


@given(st.lists(_SAMPLINGS | st.just(_GREEDY), min_size=1, max_size=5), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_batch_gets_what_each_request_gets_alone(samplings: list[Sampling], vocabulary: int, seed: int) -> None:
    """Twice, so that what was chosen is remembered as it is alone."""
    generator = torch.Generator().manual_seed(seed)
    together = [Sampler(sampling, [0], []) for sampling in samplings]
    alone = [Sampler(sampling, [0], []) for sampling in samplings]
    for at in (3, 4):
        logits = torch.randn(len(samplings), vocabulary, generator=generator)
        positions = [at + index for index in range(len(samplings))]
        expected = [s.choose(row, position) for s, row, position in zip(alone, logits, positions, strict=True)]
        assert choose_all(together, logits, positions) == expected


@given(_LOGITS, _SAMPLINGS, st.lists(st.integers(0, 40), max_size=4), st.integers(0, 9), st.integers(0, 9))
def test_no_token_that_ends_the_answer_is_chosen_before_its_time(
    logits: torch.Tensor, sampling: Sampling, stops: list[int], stops_from: int, position: int
) -> None:
    """Alone and in a batch of greedy ones; some stop tokens may be none of the model's. From then on nothing is changed."""
    plain = Sampler(sampling, [], []).choose(logits, position)
    choice = Sampler(sampling, [], [], stops, stops_from).choose(logits, position)
    if position >= stops_from:
        assert choice == plain
    elif len({token for token in stops if token < len(logits)}) < len(logits):
        assert choice.token not in stops
    for at in (position, stops_from):
        alone, batched = (Sampler(_GREEDY, [], [], stops, stops_from) for _ in range(2))
        assert choose_all([batched], logits[None], [at]) == [alone.choose(logits, at)]
