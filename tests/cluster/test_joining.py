"""Requests of all lengths join and leave a group at random moments: each gets what it gets alone, and all room comes back."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.client import ClusterClient
from cluster.group import Group
from cluster.wire.requests import Sampling, Submit
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import GREEDY, TIMEOUT_S, form, generate, prompts_of
from tests.reference import greedy, load_reference
from tests.tiny import make_tiny

pytestmark = pytest.mark.asyncio(loop_scope="session")
REQUESTS = 12
KV_TOKENS = 400
"""Room for four of them or so: the others wait until somebody leaves."""
MOST_TOKENS = 40


@dataclass(frozen=True)
class _Ask:
    """A request that comes `after` tokens of the one before it, and whose client goes after `leave_at` tokens, if ever."""

    name: str
    prompt: tuple[int, ...]
    new_tokens: int
    sampling: Sampling
    after: int
    leave_at: int | None

    @property
    def gets(self) -> int:
        return self.new_tokens if self.leave_at is None else self.leave_at

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature == 0.0


def _asks(seed: int) -> list[_Ask]:
    """Every fourth is sampled, every third is cancelled, before its first token or midway."""
    chance = random.Random(seed)
    asks: list[_Ask] = []
    for number, prompt in enumerate(prompts_of(256, [chance.randint(1, 60) for _ in range(REQUESTS)], seed)):
        new_tokens = chance.randint(2, MOST_TOKENS)
        sampling = Sampling(0.9, top_p=0.95, top_k=60, seed=number, frequency_penalty=0.2, min_p=0.01)
        leave_at = chance.choice((0, chance.randrange(1, new_tokens))) if number % 3 == 2 else None
        after = chance.randint(0, asks[-1].gets) if asks else 0
        how = sampling if number % 4 == 1 else GREEDY
        asks.append(_Ask(f"r{number}", tuple(prompt), new_tokens, how, after, leave_at))
    return asks


async def _together(group: Group, asks: Sequence[_Ask]) -> dict[str, list[int]]:
    """What each is given, until it has all or its client leaves."""
    given: dict[str, list[int]] = {ask.name: [] for ask in asks}
    news = asyncio.Condition()

    async def come(ask: _Ask, before: _Ask | None) -> None:
        if before is not None:
            async with news:
                await news.wait_for(lambda: len(given[before.name]) >= ask.after)
        submit = Submit(ask.name, ask.prompt, len(ask.prompt), ask.new_tokens, (), ask.sampling)
        if ask.leave_at == 0:
            await _leave_at_once(group, submit)
            return
        async with aclosing(group.generate(submit)) as events:
            async for event in events:
                async with news:
                    given[ask.name] += event.tokens
                    news.notify_all()
                if len(given[ask.name]) == ask.leave_at:
                    return

    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
        for ask, before in zip(asks, [None, *asks], strict=False):
            tasks.create_task(come(ask, before))
    return given


async def _leave_at_once(group: Group, submit: Submit) -> None:
    """The request is on its way, and nobody waits for its first token."""
    events = group.generate(submit)
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await events.aclose()


@pytest.mark.parametrize("family", ["llama", "mistral"])
async def test_who_joins_and_leaves_changes_nobodys_tokens(
    client: ClusterClient, shared_store: ModelStore, tmp_path: Path, family: str
) -> None:
    """At the end one request takes the whole cache, which it is given only when nobody holds any room."""
    source = make_tiny(family, tmp_path / "source", seed=13)
    checkpoint = publish(str(source), f"joining-{family}", shared_store)
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    asks = _asks(seed=25)
    alone: dict[str, list[int]] = {}
    for ask in asks:
        if ask.greedy:
            alone[ask.name] = greedy(reference, ask.prompt, ask.new_tokens)
        elif ask.leave_at != 0:
            group = await form(client, checkpoint, 1, KV_TOKENS)
            alone[ask.name] = await generate(group, "alone", ask.prompt, ask.new_tokens, ask.sampling)
            await client.dissolve(group)
    (whole,) = prompts_of(256, [KV_TOKENS - 8], seed=5)
    expected = {ask.name: alone[ask.name][: ask.gets] if ask.gets else [] for ask in asks}
    assert {ask.greedy for ask in asks if ask.leave_at is None} == {True, False}
    assert {0, None} < {ask.leave_at for ask in asks}
    assert sum(len(set(tokens)) for tokens in expected.values()) > 50, "the model says too little to tell anything"
    last = greedy(reference, whole, 8)
    for degree in (1, 2, 4):
        group = await form(client, checkpoint, degree, KV_TOKENS)
        try:
            assert await _together(group, asks) == expected, f"degree {degree}"
            assert await generate(group, "whole", whole, 8) == last, f"degree {degree}"
        finally:
            await client.dissolve(group)
