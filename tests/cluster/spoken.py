"""Tiny models, and what transformers' own `generate` says with them."""

from dataclasses import dataclass
from pathlib import Path

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import prompts_of
from tests.reference import greedy, load_reference
from tests.tiny import make_tiny

NEW_TOKENS = 24


@dataclass(frozen=True)
class Tiny:
    """A published model, and what transformers says after each prompt: longer and shorter than the sliding window."""

    checkpoint: Checkpoint
    prompts: list[list[int]]
    expected: list[list[int]]


def publish_tiny(family: str, tied: bool, folder: Path, store: ModelStore) -> Tiny:
    source = make_tiny(family, folder / "source", tied=tied, seed=3)
    checkpoint = publish(str(source), f"equal-{family}-{'tied' if tied else 'untied'}", store)
    prompts = prompts_of(256, (1, 5, 23))
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    expected = [greedy(reference, prompt, NEW_TOKENS) for prompt in prompts]
    assert len({token for tokens in expected for token in tokens}) > 3, "the model says too little to tell anything"
    return Tiny(checkpoint, prompts, expected)
