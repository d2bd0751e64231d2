"""Versions of a model as the router keeps them apart: by their weights."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.fake import FakeCluster
from cluster.fake_group import FakeGroup
from cluster.model_facts import facts_of
from cluster.virtual_time import run_virtual
from serving.catalog import ServedModel
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.schedules.worlds import world_node
from tests.serving.routed import WANTED, routed, until
from tests.tiny import make_tiny


def described(checkpoint: Checkpoint, opened: int) -> ServedModel:
    return ServedModel(checkpoint, facts_of(checkpoint), None, 512, (), opened)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServedModel, ServedModel, ServedModel]:
    """Published one after the other under one name; the first two have the same weights."""
    folder: Path = tmp_path_factory.mktemp("versions")
    store = ModelStore(ObjectStore(f"file://{folder / 'store'}"))
    first = described(publish(str(make_tiny("llama", folder / "one", num_hidden_layers=1)), "tiny", store), 1)
    again = described(publish(str(make_tiny("llama", folder / "same", num_hidden_layers=1)), "tiny", store), 2)
    other = described(publish(str(make_tiny("llama", folder / "other", num_hidden_layers=1, seed=5)), "tiny", store), 3)
    assert first.checkpoint.version != again.checkpoint.version
    assert first.checkpoint.digest == again.checkpoint.digest != other.checkpoint.digest
    return first, again, other


class Noting(FakeCluster):
    """Notes the checkpoints whose groups are formed."""

    def __init__(self, *facts: Any, **more: Any) -> None:
        super().__init__(*facts, **more)
        self.formed: list[Checkpoint] = []

    async def form(self, *ordered: Any, **how: Any) -> FakeGroup:
        self.formed.append(ordered[2])
        return await super().form(*ordered, **how)


Versions = tuple[ServedModel, ServedModel, ServedModel]


def test_a_version_is_known_by_its_weights_and_read_where_they_lie_now(versions: Versions) -> None:
    """Published again, the same weights lie below another version's name, and the first may be collected; and who asked
    before other weights were published under the name goes on with those that he asked."""
    first, again, other = versions

    async def main() -> None:
        async with routed([world_node("a", decode=1e6)], kind=Noting) as now:
            formed: list[Checkpoint] = now.cluster.formed  # type: ignore[attr-defined]
            key = now.router.know(first)
            assert now.router.know(again) == now.router.know(replace(first)) == key
            calls = [now.ask(first), now.ask(again)]
            await asyncio.gather(*(call.reading for call in calls))
            assert formed == [again.checkpoint], "one replica, of where the weights lie now"
            old = now.ask(first, 100)
            await old.until(1)
            new = now.ask(other)
            assert sorted(now.states()) == ["draining", "starting"]
            await new.reading
            await old.reading
            assert (len(old.tokens), old.error, new.error) == (100, None, None)
            assert formed == [again.checkpoint, other.checkpoint]

    run_virtual(main())


def test_who_asked_before_a_version_was_replaced_is_answered_by_it_even_once_it_is_forgotten(
    versions: Versions,
) -> None:
    """A prompt that took long was of a version that had ended and been forgotten by then: its request was answered 500."""
    first, _, other = versions

    async def main() -> None:
        async with routed([world_node("a", decode=1e6)], kind=Noting) as now:
            await now.answered(first)
            long = now.ask(first, 100)
            await long.until(1)
            now.router.know(other)
            await long.reading
            await until(lambda: now.states() == [])
            late = await now.answered(first)
            assert (len(late.tokens), late.error) == (8, None)
            assert now.cluster.formed == [first.checkpoint] * 2  # type: ignore[attr-defined]
            await until(lambda: now.states() == [], 2 * WANTED.keep_alive_s)

    run_virtual(main())
