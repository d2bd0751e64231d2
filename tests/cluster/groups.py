"""Forming groups and generating with them, as tests of the cluster do."""

import asyncio
import itertools
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.client import ClusterClient
from cluster.group import Group
from cluster.model_facts import facts_of
from cluster.wire.requests import Sampling, Submit
from schedules.facts import Placement, View
from schedules.placing.policies.fixed import place
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.reference import greedy, load_reference
from tests.tiny import make_tiny

GREEDY = Sampling(temperature=0.0)
TIMEOUT_S = 60.0
PROMPT = [7, 8, 9]
TOKENS = 12
_seeds = itertools.count(400)


class Published:
    """A model, and what it says after PROMPT. `options` go into its configuration."""

    def __init__(self, store: ModelStore, folder: Path, **options: Any) -> None:
        seed = next(_seeds)
        source = make_tiny("llama", folder / "source", seed=seed, **options)
        self.store, self.name = store, f"tiny-{seed}"
        self.checkpoint: Checkpoint = publish(str(source), self.name, store)
        reference = load_reference(source)
        reference.generation_config.eos_token_id = None
        self.expected = greedy(reference, PROMPT, TOKENS)

    def object(self, unit: str) -> Path:
        """The file that holds a unit's bytes, in a store that is a folder."""
        return Path(self.store.objects.path(self.store.unit_key(self.name, self.checkpoint.unit(unit))))

    def lose_the_bytes(self) -> None:
        """Remove every unit's object; the model's metadata stays."""
        for unit in self.checkpoint.units:
            shutil.rmtree(Path(self.store.objects.path(self.store.unit_key(self.name, unit))).parent)


def prompts_of(vocabulary: int, lengths: Sequence[int], seed: int = 7) -> list[list[int]]:
    """Random prompts of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, size=length).tolist() for length in lengths]


def new_name() -> str:
    """A group's name, used once."""
    return f"g{uuid.uuid4().hex[:12]}"


async def form(client: ClusterClient, checkpoint: Checkpoint, degree: int, kv_tokens: int = 4096) -> Group:
    """A group of exactly `degree` stages."""
    placement = place(facts_of(checkpoint), client.view(), degree, kv_tokens)
    assert isinstance(placement, Placement), placement
    assert placement.degree == degree
    return await client.form(new_name(), placement, checkpoint, TIMEOUT_S)


async def generate(
    group: Group, name: str, prompt: Sequence[int], new_tokens: int, sampling: Sampling = GREEDY
) -> list[int]:
    """All tokens of one request that nothing but its length ends."""
    return await tokens_of(group, Submit(name, tuple(prompt), len(prompt), new_tokens, (), sampling))


async def tokens_of(group: Group, submit: Submit) -> list[int]:
    """All tokens that a request is given."""
    async with asyncio.timeout(TIMEOUT_S):
        return [token async for event in group.generate(submit) for token in event.tokens]


async def form_on(client: ClusterClient, name: str, checkpoint: Checkpoint, *, behind: bool = False) -> Group:
    """A group of one, on the node called `name`; the others have no room, and give what they hold."""
    placement = placement_on(client, name, checkpoint)
    return await client.form(new_name(), placement, checkpoint, TIMEOUT_S, behind=behind)


def placement_on(client: ClusterClient, name: str, checkpoint: Checkpoint) -> Placement:
    """Of such a group."""
    nodes = client.view().nodes
    others = [node if node.name == name else replace(node, device_bytes=0, device_reserved_bytes=0) for node in nodes]
    placement = place(facts_of(checkpoint), View(tuple(others)), 1, 4096)
    assert isinstance(placement, Placement)
    return placement


async def sources(client: ClusterClient, group: Group) -> set[str]:
    """Where the group's units came from, as its ledger says."""
    return {phase.where for phase in await client.phases(group) if phase.name.startswith("fetch")}


async def served(client: ClusterClient, name: str, published: Published, *, behind: bool = False) -> set[str]:
    """Cold start the model on a node, see that it says what it should, and where it came from."""
    group = await form_on(client, name, published.checkpoint, behind=behind)
    try:
        assert await generate(group, "r", PROMPT, TOKENS) == published.expected
        return await sources(client, group)
    finally:
        await client.dissolve(group)
