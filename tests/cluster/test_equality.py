"""Greedy output equals transformers' own `generate`, token for token, for every family and degree."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from cluster.group import Group
from cluster.messages import Sampling, Submit
from cluster.model_facts import facts_of
from schedules.facts import Placement
from schedules.placement import place
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore
from tests.real_cluster import RealCluster
from tests.reference import greedy, load_reference
from tests.tiny import SUPPORTED_FAMILIES, make_tiny

pytestmark = pytest.mark.asyncio(loop_scope="session")
NEW_TOKENS = 24
GREEDY = Sampling(temperature=0.0)
FORM_TIMEOUT_S = 60.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(shared_cluster: RealCluster) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(shared_cluster.scheduler_address) as connected:
        await connected.nodes(4, 90)
        yield connected


def prompts_of(vocabulary: int, lengths: Sequence[int], seed: int = 7) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, size=length).tolist() for length in lengths]


async def form(client: ClusterClient, checkpoint: Checkpoint, degree: int) -> Group:
    placement = place(facts_of(checkpoint), client.view(), degree, kv_tokens=4096)
    assert isinstance(placement, Placement)
    assert placement.degree == degree
    return await client.form(placement, checkpoint, FORM_TIMEOUT_S)


async def generate(group: Group, name: str, prompt: Sequence[int], sampling: Sampling = GREEDY) -> list[int]:
    submit = Submit(name, tuple(prompt), len(prompt), NEW_TOKENS, (), sampling)
    async with asyncio.timeout(FORM_TIMEOUT_S):
        return [token async for event in group.generate(submit) for token in event.tokens]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
async def test_every_degree_equals_the_unsplit_model(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path, family: str, tied: bool
) -> None:
    """Prompts longer and shorter than the sliding window, several in flight at once."""
    source = make_tiny(family, tmp_path / "source", tied=tied, seed=3)
    checkpoint = publish(str(source), f"equal-{family}-{'tied' if tied else 'untied'}", shared_store)
    prompts = prompts_of(256, (1, 5, 23))
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    expected = [greedy(reference, prompt, NEW_TOKENS) for prompt in prompts]
    assert len({token for tokens in expected for token in tokens}) > 3, "the model says too little to tell anything"
    for degree in (1, 2, 3, 4):
        group = await form(client, checkpoint, degree)
        try:
            got = await asyncio.gather(*(generate(group, f"r{i}", prompt) for i, prompt in enumerate(prompts)))
        finally:
            await client.dissolve(group)
        assert got == expected, f"degree {degree}"
