"""Forming groups and generating with them, as tests of the cluster do."""

import asyncio
from collections.abc import Sequence

import numpy as np

from cluster.client import ClusterClient
from cluster.group import Group
from cluster.messages import Sampling, Submit
from cluster.model_facts import facts_of
from schedules.facts import Placement
from schedules.placement import place
from storage_tiers.checkpoint import Checkpoint

GREEDY = Sampling(temperature=0.0)
TIMEOUT_S = 60.0


def prompts_of(vocabulary: int, lengths: Sequence[int], seed: int = 7) -> list[list[int]]:
    """Random prompts of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, size=length).tolist() for length in lengths]


async def form(client: ClusterClient, checkpoint: Checkpoint, degree: int, kv_tokens: int = 4096) -> Group:
    """A group of exactly `degree` stages."""
    placement = place(facts_of(checkpoint), client.view(), degree, kv_tokens)
    assert isinstance(placement, Placement), placement
    assert placement.degree == degree
    return await client.form(placement, checkpoint, TIMEOUT_S)


async def generate(
    group: Group, name: str, prompt: Sequence[int], new_tokens: int, sampling: Sampling = GREEDY
) -> list[int]:
    """All tokens of one request that nothing but its length ends."""
    submit = Submit(name, tuple(prompt), len(prompt), new_tokens, (), sampling)
    async with asyncio.timeout(TIMEOUT_S):
        return [token async for event in group.generate(submit) for token in event.tokens]
