"""Choosing tokens: a function of the logits, the parameters and (seed, position), of nothing else."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.messages import Sampling
from cluster.sampling import Sampler, uniform

_GREEDY = Sampling(temperature=0.0)
_LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20).map(torch.tensor)
_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.0, 2.0),
    top_p=st.floats(0.01, 1.0),
    top_k=st.integers(0, 25),
    seed=st.integers(-(2**63), 2**63 + 15),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
)


def _draws(sampling: Sampling, logits: torch.Tensor, count: int) -> Counter[int]:
    """How often each token comes at positions 0, 1, ..., each chosen as if it were the first."""
    return Counter(Sampler(sampling, []).choose(logits, position) for position in range(count))


@given(_LOGITS, st.integers(0, 10**6))
def test_greedy_takes_the_largest(logits: torch.Tensor, position: int) -> None:
    assert Sampler(_GREEDY, []).choose(logits, position) == int(logits.argmax())


def test_greedy_takes_the_first_among_equals() -> None:
    assert Sampler(_GREEDY, []).choose(torch.tensor([1.0, 3.0, 3.0]), 0) == 1


@given(_LOGITS, _SAMPLINGS, st.lists(st.integers(0, 19)), st.integers(0, 10**6))
def test_the_same_request_at_the_same_position_gets_the_same_token_wherever_it_runs(
    logits: torch.Tensor, sampling: Sampling, generated: list[int], position: int
) -> None:
    """One sampler has run all along, the other begins here with what was generated before."""
    generated = [token % len(logits) for token in generated]
    running = Sampler(sampling, [])
    for at, token in enumerate(generated):
        forced = torch.full((len(logits),), -1e4)
        forced[token] = 1e4
        assert running.choose(forced, at) == token
    resumed = Sampler(sampling, generated)
    assert running.choose(logits, position) == resumed.choose(logits, position)


@given(_LOGITS, _SAMPLINGS, st.integers(0, 10**6))
def test_what_torch_and_numpy_drew_before_changes_nothing(
    logits: torch.Tensor, sampling: Sampling, position: int
) -> None:
    first = Sampler(sampling, []).choose(logits, position)
    torch.rand(3)
    assert Sampler(sampling, []).choose(logits, position) == first


@given(_LOGITS, _SAMPLINGS, st.integers(0, 10**6))
def test_the_logits_are_not_changed(logits: torch.Tensor, sampling: Sampling, position: int) -> None:
    before = logits.clone()
    Sampler(sampling, [0]).choose(logits, position)
    assert torch.equal(logits, before)


@given(_LOGITS, st.integers(1, 25), st.integers(0, 100), st.integers(0, 10**6))
def test_top_k_leaves_the_k_largest(logits: torch.Tensor, top_k: int, seed: int, position: int) -> None:
    chosen = Sampler(Sampling(top_k=top_k, seed=seed), []).choose(logits, position)
    assert int((logits > logits[chosen]).sum()) < top_k


@given(_LOGITS, st.floats(0.01, 0.99), st.integers(0, 100), st.integers(0, 10**6))
def test_top_p_leaves_the_fewest_tokens_that_reach_p(
    logits: torch.Tensor, top_p: float, seed: int, position: int
) -> None:
    chosen = Sampler(Sampling(top_p=top_p, seed=seed), []).choose(logits, position)
    probabilities = torch.softmax(logits.double(), 0)
    assert float(probabilities[logits > logits[chosen]].sum()) < top_p + 1e-9


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


def test_other_seeds_give_other_texts() -> None:
    logits = torch.zeros(50)
    texts = {tuple(Sampler(Sampling(seed=seed), []).choose(logits, at) for at in range(8)) for seed in range(20)}
    assert len(texts) == 20


def test_a_presence_penalty_counts_once_however_often_the_token_came() -> None:
    sampling = replace(_GREEDY, presence_penalty=1.0)
    logits = torch.tensor([2.0, 1.5, 0.0])
    assert Sampler(sampling, []).choose(logits, 0) == 0
    assert Sampler(sampling, [0]).choose(logits, 0) == 1
    assert Sampler(sampling, [0, 0, 0, 1]).choose(logits, 0) == 0


def test_a_frequency_penalty_grows_with_every_time_the_token_came() -> None:
    sampling = replace(_GREEDY, frequency_penalty=0.4)
    logits = torch.tensor([2.0, 1.5, 0.0])
    assert Sampler(sampling, [0]).choose(logits, 0) == 0
    assert Sampler(sampling, [0, 0]).choose(logits, 0) == 1


def test_what_was_just_chosen_is_penalised_next_time() -> None:
    sampler = Sampler(replace(_GREEDY, presence_penalty=2.0), [])
    assert [sampler.choose(torch.tensor([2.0, 1.5, 1.0]), at) for at in range(4)] == [0, 1, 2, 0]


def test_a_negative_penalty_is_a_preference() -> None:
    sampling = replace(_GREEDY, presence_penalty=-1.0)
    assert Sampler(sampling, [1]).choose(torch.tensor([2.0, 1.5]), 0) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_of_every_type_are_taken(dtype: torch.dtype) -> None:
    sampling = Sampling(seed=5, presence_penalty=0.5)
    assert Sampler(sampling, [2]).choose(torch.tensor([-100.0, 100.0, 0.0], dtype=dtype), 7) == 1
