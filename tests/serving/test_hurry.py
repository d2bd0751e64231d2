"""A replica that a plan of prewarming keeps makes way for all that anybody waits for, until somebody waits for it."""

import logging
from collections.abc import Sequence

import pytest

from cluster.errors import ClusterError
from cluster.fake import FakeCluster
from schedules.events import PrewarmPlanned
from schedules.foresight.plan import Kept, Plan
from serving.catalog import ServedModel
from tests.schedules.worlds import world_node
from tests.serving.routed import Routed, played, said, served, until


class _Told(FakeCluster):
    """Knows which groups it was told to hurry."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.hurried: list[str] = []

    async def hurry(self, name: str, nodes: Sequence[str]) -> None:
        self.hurried.append(name)
        await super().hurry(name, nodes)


class _Deaf(FakeCluster):
    async def hurry(self, name: str, nodes: Sequence[str]) -> None:
        raise ClusterError("node a does not answer")


def _keep(model: ServedModel) -> PrewarmPlanned:
    kept = Kept(model.facts.key, 1, 5.0, "it will be called")
    return PrewarmPlanned(Plan(0.0, 900.0, (), {}, {}, (kept,), {model.facts.key: 5.0}))


async def _asked_for_while_it_comes(now: Routed) -> list[int]:
    model = served("m")
    now.router.know(model)
    now.router.tell(_keep(model))
    await until(lambda: now.states("m") == ["starting"])
    call = now.ask(model)
    await call.reading
    return call.tokens


def test_who_waits_for_it_has_it_hurried() -> None:
    async def test(now: Routed) -> None:
        assert isinstance(now.cluster, _Told)
        assert await _asked_for_while_it_comes(now) == said("m", 8)
        assert now.cluster.hurried == now.groups()

    played(test, world_node("a", formed=5.0), kind=_Told)


def test_a_node_that_cannot_be_told_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def test(now: Routed) -> None:
        assert await _asked_for_while_it_comes(now) == said("m", 8)

    with caplog.at_level(logging.WARNING):
        played(test, world_node("a", formed=5.0), kind=_Deaf)
    assert [r.getMessage().partition(" ")[2].partition(" ")[2] for r in caplog.records] == [
        "still makes way for others: node a does not answer"
    ]
