"""What changes a token's odds before it is drawn: bias and the repetition penalty."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from cluster.stage.choosing.sampling import Sampler
from cluster.stage.steps import Choice
from cluster.wire.requests import Sampling

_SIZE = 12
_LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=_SIZE, max_size=_SIZE).map(torch.tensor)
_TOKENS = st.lists(st.integers(0, _SIZE - 1), max_size=8)


@given(_LOGITS, _TOKENS, _TOKENS, st.floats(0.1, 2.0))
def test_repetition_is_penalised_as_transformers_does_in_prompt_and_answer(
    logits: torch.Tensor, prompt: list[int], generated: list[int], penalty: float
) -> None:
    seen = torch.tensor([[*prompt, *generated]], dtype=torch.int64)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits[None])[0] if seen.numel() else logits
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    assert Sampler(sampling, prompt, generated).choose(logits, 0).token == int(expected.argmax())


@given(_LOGITS, st.dictionaries(st.integers(0, _SIZE + 3), st.floats(-100, 100, width=32)))
def test_a_bias_is_added_and_one_outside_of_the_vocabulary_is_nothing(
    logits: torch.Tensor, bias: dict[int, float]
) -> None:
    expected = logits.clone()
    for token, added in bias.items():
        if token < _SIZE:
            expected[token] += added
    sampling = Sampling(temperature=0.0, logit_bias=tuple(bias.items()))
    assert Sampler(sampling, [], []).choose(logits, 0).token == int(expected.argmax())


@pytest.mark.parametrize("penalty", [1e-40, 1e-320])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_a_penalty_that_overflows_ends_no_stage(penalty: float, top_p: float) -> None:
    """Together with min_p no token was left that could be drawn, and the whole group ended with the request."""
    sampling = Sampling(repetition_penalty=penalty, min_p=0.5, top_p=top_p)
    assert Sampler(sampling, [0, 1], []).choose(torch.tensor([30.0, -20.0, 3.0]), 0).token == 0
    assert Sampler(sampling, [0, 1, 2], []).choose(torch.tensor([0.0, -20.0, 3.0]), 0).token == 2


@pytest.mark.parametrize("vocabulary", [3, 600])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(min_p=0.5), Sampling(top_k=2), Sampling(top_p=0.9), Sampling(0.0, logprobs=2), Sampling(0.0)],
    ids=["min_p", "top_k", "top_p", "logprobs", "greedy"],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_end_no_stage(value: float, sampling: Sampling, vocabulary: int) -> None:
    """top_k and top_p found no token that was as likely as the likeliest, and the group ended. There is none to be had."""
    assert Sampler(sampling, [], []).choose(torch.full((vocabulary,), value), 0) == Choice(None)


def test_a_token_that_cannot_come_is_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 1.0, 2.0])
    assert {Sampler(Sampling(seed=2), [], []).choose(logits, at).token for at in range(50)} == {1, 2}
