"""Greedy output equals transformers' own `generate`, token for token, for every family and degree: real layers, caches and
loops, each stage a thread. What it is like between processes, with a few of them: test_equality.
"""

from pathlib import Path

import pytest
import torch

from cluster.model_facts import facts_of
from cluster.wire.requests import Submit
from schedules.placing.partition import split_layers
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import GREEDY
from tests.cluster.spoken import NEW_TOKENS, publish_tiny
from tests.cluster.threaded_group import ThreadedGroup
from tests.published import tensors_by_store
from tests.tiny import SUPPORTED_FAMILIES


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_every_degree_equals_the_unsplit_model(
    device: torch.device, store: ModelStore, tmp_path: Path, family: str, tied: bool
) -> None:
    """Several requests in flight at once, split as they are when they are placed; every stage is a thread. Where steps
    become faster with time, what they give then is the same."""
    tiny = publish_tiny(family, tied, tmp_path, store)
    weights = tensors_by_store(store, tiny.checkpoint)
    asked = [Submit(f"r{i}", tuple(p), len(p), NEW_TOKENS, (), GREEDY) for i, p in enumerate(tiny.prompts)]
    for degree in (1, 2, 3, 4):
        bounds = split_layers(facts_of(tiny.checkpoint), degree)
        group = ThreadedGroup(tiny.checkpoint, weights, bounds, device=device)
        try:
            got = [group.answers(asked)]
            if group.hasten():
                got += [group.answers(asked) for _ in range(2)]
        finally:
            group.end()
        assert all(list(answers.values()) == tiny.expected for answers in got), f"degree {degree}"
