"""What a group refuses at its door, so that one request that cannot be computed does not end it for all others."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.client import ClusterClient
from cluster.errors import NoToken, Refused
from cluster.stage.admission import find_fault
from cluster.stage.choosing.sampling import Sampler
from cluster.wire.requests import GRAMMAR_CHARACTERS, Grammar, Sampling, Submit
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import form, generate
from tests.reference import greedy, load_reference
from tests.tiny import make_overflowing, make_tiny

_VOCABULARY = 8
_GOOD = Submit("r", (1, 2, 7), 2, 4, (), Sampling())
_NUMBERS = st.floats() | st.sampled_from([-1.0, 0.0, 1.0, 5e-324, 1e308])
_SAMPLINGS = st.builds(
    Sampling,
    temperature=_NUMBERS,
    top_p=_NUMBERS,
    min_p=_NUMBERS,
    top_k=st.integers(-3, 12) | st.integers(),
    seed=st.integers(),
    presence_penalty=_NUMBERS,
    frequency_penalty=_NUMBERS,
    repetition_penalty=_NUMBERS,
    logit_bias=st.lists(st.tuples(st.integers(-2, 12) | st.integers(), _NUMBERS), max_size=2).map(tuple),
    logprobs=st.none() | st.integers(-2, 12),
)


def test_a_request_without_fault_has_none() -> None:
    assert find_fault(_GOOD, _VOCABULARY) is None


@pytest.mark.parametrize("token", [-1, _VOCABULARY])
def test_a_token_outside_of_the_vocabulary_is_refused(token: int) -> None:
    fault = find_fault(replace(_GOOD, tokens=(1, token)), _VOCABULARY)
    assert fault is not None
    assert "vocabulary of 8" in fault


def test_a_request_beyond_learned_positions_is_refused() -> None:
    fault = find_fault(_GOOD, _VOCABULARY, positions=6)
    assert fault == "prompt and max_tokens are 7 tokens, and the model has learned 6 positions"
    assert find_fault(_GOOD, _VOCABULARY, positions=7) is None


def test_a_grammar_that_is_too_long_is_refused() -> None:
    fault = find_fault(replace(_GOOD, grammar=Grammar("x" * (GRAMMAR_CHARACTERS + 1), "d")), _VOCABULARY)
    assert fault == "the grammar has 262145 characters, and at most 262144 are read"
    assert find_fault(replace(_GOOD, grammar=Grammar("x" * GRAMMAR_CHARACTERS, "d")), _VOCABULARY) is None


@pytest.mark.parametrize("wrong", [{"min_tokens": -1}, {"stop_tokens": (-1,)}, {"stop_tokens": (3, 2**63)}])
def test_an_end_that_no_answer_can_have_is_refused(wrong: dict[str, object]) -> None:
    assert "min_tokens" in (find_fault(replace(_GOOD, **wrong), _VOCABULARY) or "")


@pytest.mark.parametrize("prompt_tokens", [-1, 4, 2**63])
def test_a_prompt_that_is_longer_than_all_of_it_is_refused(prompt_tokens: int) -> None:
    fault = find_fault(replace(_GOOD, prompt_tokens=prompt_tokens), _VOCABULARY)
    assert fault == f"prompt_tokens is {prompt_tokens}, and there are 3 tokens in all"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("top_p", 1.1), ("top_p", -1.0),
        ("min_p", 2.0), ("top_k", -1), ("presence_penalty", math.nan), ("frequency_penalty", math.inf),
        ("repetition_penalty", -1.0), ("logprobs", -1), ("logit_bias", ((-1, 1.0),)), ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((2**63, 1.0),)),
    ],
)  # fmt: skip
def test_what_nothing_can_be_drawn_with_is_refused_and_named(name: str, value: object) -> None:
    fault = find_fault(replace(_GOOD, sampling=replace(Sampling(), **{name: value})), _VOCABULARY)
    assert fault is not None
    assert name in fault


@given(_SAMPLINGS, st.lists(st.floats(width=32), min_size=_VOCABULARY, max_size=_VOCABULARY))
def test_what_is_taken_gives_a_token_whatever_the_logits_are(sampling: Sampling, logits: list[float]) -> None:
    """None only where the model gave no numbers."""
    if find_fault(replace(_GOOD, sampling=sampling), _VOCABULARY) is None:
        choice = Sampler(sampling, [1, 2], [7]).choose(torch.tensor(logits), 3)
        if any(math.isnan(logit) or logit == math.inf for logit in logits) or max(logits) == -math.inf:
            assert choice.token is None
        else:
            assert choice.token is not None
            assert 0 <= choice.token < _VOCABULARY


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("degree", [1, 2])
async def test_a_request_that_gets_no_numbers_ends_alone(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path, degree: int
) -> None:
    """Weights that overflow for one token made arbitrary text of NaN, and nobody was told."""
    source = make_overflowing(tmp_path / "source", token=7)
    checkpoint = publish(str(source), f"overflowing-{degree}", shared_store)
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    prompts = [[5, 6, 9], [5], [40, 41]]
    group = await form(client, checkpoint, degree)
    try:
        failing, *others = await asyncio.gather(
            generate(group, "bad", [5, 7, 9], 8),
            *(generate(group, f"r{index}", prompt, 8) for index, prompt in enumerate(prompts)),
            return_exceptions=True,
        )
        assert isinstance(failing, NoToken)
        assert "logits at position 3 are not finite numbers" in str(failing)
        assert others == [greedy(reference, prompt, 8) for prompt in prompts]
        with pytest.raises(Refused, match="514 tokens, and the model has learned 512 positions"):
            await generate(group, "far", [5, 6], 512)
        with pytest.raises(NoToken):
            await generate(group, "drawn", [7], 8, Sampling(seed=3, logprobs=2))
        assert await generate(group, "after", prompts[0], 8) == others[0]
    finally:
        await client.dissolve(group)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_group_refuses_what_would_end_it_and_serves_the_others(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path
) -> None:
    """A token that the embedding does not have, or a bias for a token below 0, ended the group for everyone."""
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source", seed=17)), "refusing", shared_store)
    group = await form(client, checkpoint, 2)
    try:
        before = await generate(group, "before", [5, 6], 4)
        with pytest.raises(Refused, match="vocabulary of 256"):
            await generate(group, "token", [5, 256], 4)
        with pytest.raises(Refused, match="logit_bias"):
            await generate(group, "bias", [5, 6], 4, Sampling(logit_bias=((-1, 1.0),)))
        with pytest.raises(Refused, match="max_tokens is 0"):
            await generate(group, "nothing", [5, 6], 0)
        assert await generate(group, "after", [5, 6], 4) == before
    finally:
        await client.dissolve(group)
