"""Requests that go on in another group, between real ones of several stages: as if nothing had been."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from cluster.contract import KvOf
from cluster.group import Group
from cluster.wire.requests import Sampling, Submit
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import GREEDY, PROMPT, TIMEOUT_S, Published, form, tokens_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
KV_TOKENS, TOKENS, AFTER = 2048, 600, 40
SEEDED = Sampling(temperature=1.2, top_p=0.95, seed=77, presence_penalty=0.3)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def groups(
    client: ClusterClient, shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[int, Group]]:
    """One group of one stage and one of two, of the same model."""
    folder: Path = tmp_path_factory.mktemp("model")
    checkpoint = Published(shared_store, folder, max_position_embeddings=KV_TOKENS).checkpoint
    found = {degree: await form(client, checkpoint, degree, KV_TOKENS) for degree in (1, 2)}
    yield found
    await asyncio.gather(*(client.dissolve(group) for group in found.values()))


def _asked(name: str, sampling: Sampling = GREEDY, tokens: int = TOKENS) -> Submit:
    return Submit(name, tuple(PROMPT), len(PROMPT), tokens, (), sampling)


def _so_far(submit: Submit, got: list[int], name: str) -> Submit:
    return replace(submit, request=name, tokens=(*submit.tokens, *got), max_tokens=submit.max_tokens - len(got))


class Running:
    """A request at a group: what it has been given so far."""

    def __init__(self, group: Group, submit: Submit) -> None:
        self.group, self.submit, self.got = group, submit, list[int]()
        self.finish: str | None = None
        self._more = asyncio.Event()
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async with aclosing(self.group.generate(self.submit)) as stream:
            async for event in stream:
                self.got += event.tokens
                self.finish = event.finish
                self._more.set()

    async def until(self, count: int) -> None:
        """It has so many tokens."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.got) < count and not self.reading.done():
                self._more.clear()
                await self._more.wait()


async def _shifted(running: Running, to: Group, copied: bool) -> tuple[list[int], int]:
    """All tokens of a request that goes on elsewhere in the middle; how many were copied."""
    await running.until(AFTER)
    known = list(running.got)
    kv_of = KvOf(running.group, running.submit.request) if copied else None
    name = f"{running.submit.request}-there"
    following = await to.follow(_so_far(running.submit, known, name), kv_of, TIMEOUT_S)
    for _ in range(2):
        told = len(PROMPT) + len(known)
        assert await asyncio.wait_for(following.caught_up(), TIMEOUT_S) == told
        new = running.got[len(known) :]
        following.more(new)
        known += new
    running.group.yield_up(running.submit.request)
    await asyncio.wait_for(running.reading, TIMEOUT_S)
    assert running.finish is None, "it was over before it went on"
    async with asyncio.timeout(TIMEOUT_S), aclosing(following.go_on(running.got[len(known) :])) as stream:
        events = [event async for event in stream]
    assert events[-1].finish == "length"
    return [*running.got, *(token for event in events for token in event.tokens)], following.copied_tokens


@pytest.mark.parametrize(
    ("degree", "to", "copied", "sampling"),
    [(2, 1, True, GREEDY), (1, 2, False, GREEDY), (2, 1, False, SEEDED), (1, 2, True, SEEDED)],
    ids=["two to one, copied", "one to two, anew", "two to one, anew, seeded", "one to two, copied, seeded"],
)
async def test_a_request_goes_on_as_if_nothing_had_been(
    groups: dict[int, Group], degree: int, to: int, copied: bool, sampling: Sampling
) -> None:
    name = f"{degree}-{copied}-{sampling.seed}"
    undisturbed = await tokens_of(groups[degree], _asked(f"{name}-alone", sampling))
    running = Running(groups[degree], _asked(name, sampling))
    tokens, copied_tokens = await _shifted(running, groups[to], copied)
    assert tokens == undisturbed
    assert (copied_tokens >= AFTER) is copied


async def test_several_requests_go_on_beside_others(groups: dict[int, Group]) -> None:
    undisturbed = await tokens_of(groups[2], _asked("alone"))
    beside = Running(groups[1], _asked("beside"))
    runs = [Running(groups[2], _asked(f"many-{number}")) for number in range(3)]
    found = await asyncio.gather(*(_shifted(running, groups[1], number != 1) for number, running in enumerate(runs)))
    await asyncio.wait_for(beside.reading, TIMEOUT_S)
    assert [tokens for tokens, _ in found] == [undisturbed] * 3
    assert beside.got == undisturbed


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "anew"])
async def test_a_follower_that_is_given_up_leaves_no_room_taken(groups: dict[int, Group], copied: bool) -> None:
    """Each takes all the room there is: the second would wait for ever for what the first had not given back."""
    running = Running(groups[2], _asked(f"left-{copied}", tokens=KV_TOKENS - len(PROMPT)))
    await running.until(AFTER)
    for number in range(3):
        submit = _so_far(running.submit, running.got, f"left-{copied}-{number}")
        kv_of = KvOf(groups[2], running.submit.request) if copied else None
        following = await groups[1].follow(submit, kv_of, TIMEOUT_S)
        if number:
            await asyncio.wait_for(following.caught_up(), TIMEOUT_S)
        await following.close()
    assert not running.reading.done(), "it never noticed"
    running.reading.cancel()
    whole = await tokens_of(groups[1], _asked(f"left-{copied}-whole", tokens=KV_TOKENS - len(PROMPT)))
    assert len(whole) == KV_TOKENS - len(PROMPT)
