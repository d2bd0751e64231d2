"""A node that is asked to end: it says so, takes no more stages, and ends with its last one, or when its time is over."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from cluster.errors import Refused
from schedules.events import Event, NodeLeft, NodeReported
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, form_on, generate, new_name
from tests.real_cluster import START_DEADLINE_S, RealCluster, run_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG_S = 600.0
"""Longer than a test waits for a process's end."""


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Nodes that would wait for long, and one that would not."""
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=0) as running:
        for name in ("waits", "is-told-twice"):
            running.start_node(name, grace_s=LONG_S)
        running.start_node("is-in-a-hurry", grace_s=0.5)
        yield running
        for name in list(running.processes):
            if name != "scheduler":
                running.kill(name)


class Heard:
    """What the client tells."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, holds: Callable[[Event], bool]) -> None:
        """Wait for such an event."""
        async with asyncio.timeout(TIMEOUT_S):
            while not any(holds(event) for event in self.events):
                self._more.clear()
                await self._more.wait()


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(cluster: RealCluster, heard: Heard) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(cluster.scheduler_address, listener=heard) as connected:
        async with asyncio.timeout(START_DEADLINE_S):
            await connected._hearing.until(lambda: sum(n.idle_stage_processes > 0 for n in connected.view().nodes) == 3)
        yield connected


def _drains(node: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, NodeReported) and event.node.name == node and event.node.draining


async def test_it_serves_what_it_has_and_ends_when_that_is_gone(
    cluster: RealCluster, client: ClusterClient, heard: Heard, published: Published
) -> None:
    group = await form_on(client, "waits", published.checkpoint)
    cluster.processes["waits"].send_signal(signal.SIGTERM)
    await heard.until(_drains("waits"))
    with pytest.raises(Refused, match="about to end"):
        await client.form(new_name(), group.placement, published.checkpoint, TIMEOUT_S)
    assert await generate(group, "r", PROMPT, TOKENS) == published.expected
    await client.dissolve(group)
    assert await asyncio.to_thread(cluster.ended, "waits") == 0
    await heard.until(lambda event: event == NodeLeft("waits"))


@pytest.mark.parametrize(
    ("node", "signals"),
    [("is-told-twice", [signal.SIGTERM, signal.SIGTERM]), ("is-in-a-hurry", [signal.SIGTERM])],
)
async def test_it_ends_with_what_it_has_when_its_time_is_over(
    cluster: RealCluster,
    client: ClusterClient,
    heard: Heard,
    published: Published,
    node: str,
    signals: list[signal.Signals],
) -> None:
    group = await form_on(client, node, published.checkpoint)
    for signum in signals:
        cluster.processes[node].send_signal(signum)
        await heard.until(_drains(node))
    assert await asyncio.to_thread(cluster.ended, node) == 0
    await asyncio.wait_for(group.lost.wait(), TIMEOUT_S)
    await client.dissolve(group)
