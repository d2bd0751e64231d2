"""Greedy output of groups of processes equals transformers' own `generate`, token for token, at every degree.

Of every family, with stages that are threads: test_families.
"""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from cluster.client import ClusterClient
from cluster.wire.requests import Sampling, Submit
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import GREEDY, form, generate, prompts_of, tokens_of
from tests.cluster.spoken import NEW_TOKENS, publish_tiny
from tests.reference import gaps, greedy, load_reference
from tests.smollm2 import reference_of
from tests.tiny import CHANGING_ROTATIONS, ROTATION_BORDER, make_tiny

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.gpu]
REAL_GROUPS = (
    ("llama", False),
    ("gemma3_text", True),
    ("mixtral", False),
    ("gpt2", True),
    ("falcon", True),
)
"""Plain; windows that alternate and a scaled embedding; experts; learned positions; an attention of its own."""
_numbers = itertools.count()


@pytest.mark.parametrize(("family", "tied"), REAL_GROUPS)
async def test_every_degree_of_processes_equals_the_unsplit_model(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path, family: str, tied: bool
) -> None:
    """Of families that differ most: weights come as a node's files, and hidden states over DeepSpeed."""
    tiny = publish_tiny(family, tied, tmp_path, shared_store)
    for degree in (1, 2, 3, 4):
        group = await form(client, tiny.checkpoint, degree)
        try:
            got = await asyncio.gather(
                *(generate(group, f"r{i}", prompt, NEW_TOKENS) for i, prompt in enumerate(tiny.prompts))
            )
        finally:
            await client.dissolve(group)
        assert got == tiny.expected, f"degree {degree}"


@pytest.mark.parametrize(
    ("family", "options"),
    [*CHANGING_ROTATIONS[:3], CHANGING_ROTATIONS[-1]],
    ids=["dynamic", "longrope", "phi3", "gemma3"],
)
async def test_every_degree_equals_it_where_rotations_change_with_the_length(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    """Requests that cross the border, stay below it and begin beyond it, together; then two that a lost group replays."""
    source = make_tiny(family, tmp_path / "source", seed=3, **options)
    checkpoint = publish(str(source), f"rotations-{next(_numbers)}", shared_store)
    prompts = prompts_of(256, (ROTATION_BORDER - 10, 3, ROTATION_BORDER + 30))
    expected = []
    for prompt in prompts:
        reference = load_reference(source)  # each a new one: it remembers the longest sequence that it has met
        reference.generation_config.eos_token_id = None
        expected.append(greedy(reference, prompt, NEW_TOKENS))
    replays = [
        Submit(f"after {had}", (*prompts[0], *expected[0][:had]), len(prompts[0]), NEW_TOKENS - had, (), GREEDY)
        for had in (5, 15)
    ]
    for degree in (1, 2):
        group = await form(client, checkpoint, degree)
        try:
            got = await asyncio.gather(
                *(generate(group, f"r{i}", prompt, NEW_TOKENS) for i, prompt in enumerate(prompts))
            )
            replayed = await asyncio.gather(*(tokens_of(group, submit) for submit in replays))
        finally:
            await client.dissolve(group)
        assert got == expected, f"degree {degree}"
        assert replayed == [expected[0][5:], expected[0][15:]], f"degree {degree}"


async def test_a_real_model_equals_itself_unsplit(
    client: ClusterClient, shared_store: ModelStore, smollm2_exact: Checkpoint
) -> None:
    reference = reference_of(shared_store, smollm2_exact, "float32")
    reference.generation_config.eos_token_id = None
    prompts = prompts_of(40_000, (3, 40))
    expected = [greedy(reference, prompt, NEW_TOKENS) for prompt in prompts]
    for degree in (1, 2, 3, 4):
        group = await form(client, smollm2_exact, degree)
        try:
            got = [await generate(group, f"r{i}", prompt, NEW_TOKENS) for i, prompt in enumerate(prompts)]
        finally:
            await client.dissolve(group)
        assert got == expected, f"degree {degree}"


async def test_in_bfloat16_every_token_is_the_likeliest_up_to_rounding(
    client: ClusterClient, shared_store: ModelStore, smollm2: Checkpoint
) -> None:
    """Logits near 16 are 0.125 apart in bfloat16, and sums in another order differ by a few such steps at most."""
    reference = reference_of(shared_store, smollm2, "bfloat16")
    prompts = prompts_of(40_000, (3, 40, 17, 90))
    for degree in (1, 2, 4):
        group = await form(client, smollm2, degree)
        try:
            got = await asyncio.gather(
                *(generate(group, f"r{i}", prompt, NEW_TOKENS) for i, prompt in enumerate(prompts))
            )
        finally:
            await client.dissolve(group)
        below = [gap for prompt, tokens in zip(prompts, got, strict=True) for gap in gaps(reference, prompt, tokens)]
        assert max(below) <= 0.5
        assert sum(gap == 0.0 for gap in below) >= 0.9 * len(below)


async def test_a_seed_gives_the_same_tokens_at_every_degree_and_beside_others(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path
) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source", seed=5)), "seeded", shared_store)
    prompt, other = prompts_of(256, (9, 17))
    sampling = Sampling(temperature=0.9, top_p=0.95, top_k=50, seed=1234, presence_penalty=0.3, frequency_penalty=0.2)
    outcomes = set()
    for degree in (1, 3):
        group = await form(client, checkpoint, degree)
        try:
            alone = await generate(group, "alone", prompt, NEW_TOKENS, sampling)
            beside, _ = await asyncio.gather(
                generate(group, "beside", prompt, NEW_TOKENS, sampling),
                generate(group, "other", other, NEW_TOKENS, Sampling(temperature=1.5, seed=9)),
            )
        finally:
            await client.dissolve(group)
        outcomes |= {tuple(alone), tuple(beside)}
    assert len(outcomes) == 1
