"""Long answers in float32, held against the unsplit model in float64 at every token: in batches whose others come and go,
through rooms of every size, and through replays at any token.

The last bits of a float32 logit depend on what else is in the batch. Where the two likeliest tokens are closer than that,
either is right, and an answer may go on otherwise than alone.
"""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from cluster.stage.attending.slabs import SlabCache
from cluster.stage.building.model import StageModel
from cluster.stage.choosing.batch import Pending
from cluster.stage.steps import Segment
from cluster.stage.worker import Worker
from cluster.wire.requests import Cancel, Submit, Tokens
from schedules.requests import room_tokens
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import GREEDY, prompts_of
from tests.cluster.threaded_group import DEADLINE_S, NoPulse, ThreadedGroup
from tests.published import tensors_by_store
from tests.reference import load_reference
from tests.tiny import make_tiny

ROUNDING = 2e-3
"""Of logits near 6. Float32 was seen to be off by 4e-4; one key of 400 that is missing puts them off by 8, positions
that are off by one by 17."""
KV_TOKENS = 20_000
LENGTHS = (500, 511, 512, 513, 576, 640, 700, 720, 768, 769)
"""Of prompt and answer together: around the ends of rooms."""
Seen = dict[tuple[str, int], torch.Tensor]
"""Logits by request and position of the token that they are for."""


class _Recorder(Worker):
    """A worker that keeps the logits of every token it chooses."""

    def __init__(self, seen: Seen, model: StageModel, kv_tokens: int) -> None:
        cache = SlabCache(model.layers, kv_tokens, torch.device("cpu"))
        super().__init__(model, model, cache, lambda _name, _started_s: None, NoPulse())
        self._seen, self._names = seen, dict[int, str]()

    def start(self, slot: int, submit: Submit) -> None:
        self._names[slot] = submit.request.partition("/")[0]
        super().start(slot, submit)

    def begin_choices(self, segments: Sequence[Segment], logits: torch.Tensor) -> Pending:
        for segment, row in zip(segments, logits[0], strict=True):
            self._seen[self._names[segment.slot], segment.position + segment.tokens] = row.clone()
        return super().begin_choices(segments, logits)


def _group(checkpoint: Checkpoint, weights: dict[str, torch.Tensor], degree: int, seen: Seen) -> ThreadedGroup:
    bounds = [rank * checkpoint.layers // degree for rank in range(degree + 1)]
    return ThreadedGroup(checkpoint, weights, bounds, KV_TOKENS, partial(_Recorder, seen))


class _Clients:
    """Those who ask, and go on asking with what they have when their request is cancelled or the group is lost."""

    def __init__(self, prompts: Sequence[list[int]]) -> None:
        self.prompts = prompts
        self.answers: list[list[int]] = [[] for _ in prompts]
        self._attempts = [0 for _ in prompts]
        self._waiting: dict[str, int] = {}

    def ask(self, group: ThreadedGroup, client: int) -> None:
        prompt, had = self.prompts[client], self.answers[client]
        self._attempts[client] += 1
        name = f"r{client}/{self._attempts[client]}"
        self._waiting[name] = client
        left = LENGTHS[client] - len(prompt) - len(had)
        group.driver.inbox.put(Submit(name, (*prompt, *had), len(prompt), left, (), GREEDY))

    def take(self, group: ThreadedGroup) -> int:
        """Wait for a step's tokens; how many came."""
        count = 0
        for event in group.events.get(timeout=DEADLINE_S):
            assert isinstance(event, Tokens)
            client = self._waiting.get(event.request)
            if client is not None:
                self.answers[client] += event.tokens
                count += len(event.tokens)
                if event.finish is not None:
                    del self._waiting[event.request]
        return count

    def replay_one(self, group: ThreadedGroup, chance: random.Random) -> None:
        if self._waiting:
            name, client = chance.choice(sorted(self._waiting.items()))
            del self._waiting[name]
            group.driver.inbox.put(Cancel(name))
            self.ask(group, client)

    def replay_all(self, group: ThreadedGroup) -> None:
        clients = sorted(self._waiting.values())
        self._waiting.clear()
        for client in clients:
            self.ask(group, client)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)


@pytest.mark.parametrize("degree", [1, 2])
def test_every_token_is_the_likeliest_up_to_rounding(store: ModelStore, tmp_path: Path, degree: int) -> None:
    """Of 48 long answers through many losses four differed late from what was said alone. Each token of theirs was right:
    the two likeliest were nearer to each other than float32 rounds, and a batch rounds otherwise than one request does."""
    assert {room_tokens(length, KV_TOKENS) for length in LENGTHS} == {512, 768, 1024}
    source = make_tiny("llama", tmp_path / "source", seed=400, max_position_embeddings=1024)
    checkpoint = publish(str(source), "long-answers", store)
    weights, seen, chance = tensors_by_store(store, checkpoint), Seen(), random.Random(degree)
    clients = _Clients(prompts_of(256, [3 + 17 * client for client in range(len(LENGTHS))]))
    group = _group(checkpoint, weights, degree, seen)
    try:
        for client in range(len(LENGTHS)):
            clients.ask(group, client)
        came, lost_at = 0, 2500
        while clients.waiting:
            came += clients.take(group)
            if chance.random() < 0.03:
                clients.replay_one(group, chance)
            if came >= lost_at:
                lost_at *= 2
                group.end()
                group = _group(checkpoint, weights, degree, seen)
                clients.replay_all(group)
    finally:
        group.end()
    reference = load_reference(source, "float64")
    for client, (prompt, answer) in enumerate(zip(clients.prompts, clients.answers, strict=True)):
        text = [*prompt, *answer]
        assert len(text) == LENGTHS[client]
        with torch.inference_mode():
            expected = reference(torch.tensor([text])).logits[0]
        for position in range(len(prompt), len(text)):
            right, ours = expected[position - 1], seen[f"r{client}", position]
            assert (ours - right).abs().max() < ROUNDING, f"r{client} at {position}"
            assert right.max() - right[text[position]] < 2 * ROUNDING, f"r{client} at {position}"
