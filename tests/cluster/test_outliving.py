"""Who outlives whom: groups their scheduler and their front end, nodes their scheduler; nobody a node that is silent."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from cluster.errors import NodeLost, Refused
from cluster.group import Group
from cluster.wire.orders import AskReport
from cluster.wire.reports import NodeReport
from schedules.events import (
    Event,
    GroupFound,
    GroupLost,
    NodeLeft,
    NodeReported,
    SchedulerJoined,
    SchedulerLost,
)
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, form, generate
from tests.real_cluster import RealCluster, run_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
_FRONTEND = Path(__file__).with_name("short_lived_client.py")


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two nodes of one's own, and a scheduler to be harmed."""
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=2) as running:
        yield running


class Listening:
    """What a client tells, and when."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []

    def __call__(self, event: Event) -> None:
        self.events.append((time.monotonic(), event))

    def of(self, kind: type) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kind)]

    def found(self, group: str) -> list[GroupFound]:
        return [event for _, event in self.events if isinstance(event, GroupFound) and event.group == group]

    def longest_silence_s(self, node: str, since_s: float) -> float:
        """Between two reports of the node, until now."""
        heard_s = [at_s for at_s, event in self.events if isinstance(event, NodeReported) and event.node.name == node]
        marks_s = [since_s, *(at_s for at_s in heard_s if at_s > since_s), time.monotonic()]
        return max(after - before for before, after in itertools.pairwise(marks_s))


@asynccontextmanager
async def listening(cluster: RealCluster) -> AsyncIterator[tuple[ClusterClient, Listening]]:
    heard = Listening()
    async with ClusterClient(cluster.scheduler_address, listener=heard) as client:
        await client.nodes(2, 90)
        yield client, heard


@pytest_asyncio.fixture(loop_scope="module")
async def joined(cluster: RealCluster) -> AsyncIterator[tuple[ClusterClient, Listening]]:
    async with listening(cluster) as both:
        yield both


async def until(condition: Callable[[], object], within_s: float = TIMEOUT_S) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - events are kept, and looked at
            await asyncio.sleep(0.02)


async def says_what_it_should(group: Group, published: Published, name: str) -> None:
    assert await generate(group, name, PROMPT, TOKENS) == published.expected


async def test_a_scheduler_that_dies_and_comes_back_ends_nothing(
    cluster: RealCluster, joined: tuple[ClusterClient, Listening], published: Published
) -> None:
    """Every node ended with it, and with them all groups, their streams, and what they had in memory."""
    client, heard = joined
    group = await form(client, published.checkpoint, 2)
    before = dict(client.view().node("node-0").units)  # type: ignore[union-attr]
    cluster.kill("scheduler")
    await until(lambda: heard.of(SchedulerLost))
    assert not client.joined
    since_s = time.monotonic()
    await says_what_it_should(group, published, "while it is away")
    other = await form(client, published.checkpoint, 2)
    await says_what_it_should(other, published, "formed while it is away")
    await client.dissolve(other)
    await asyncio.sleep(3.0)
    assert max(heard.longest_silence_s(node, since_s) for node in ("node-0", "node-1")) < 3.0
    cluster.start_scheduler()
    await until(lambda: len(heard.of(SchedulerJoined)) == 2)
    await until(lambda: all(node.address for node in client.view().nodes), 10.0)
    await says_what_it_should(group, published, "when it is back")
    assert before.items() <= dict(client.view().node("node-0").units).items()  # type: ignore[union-attr]
    assert not heard.of(NodeLeft)
    assert not heard.of(GroupLost)
    async with listening(cluster) as (late, _):
        assert [node.name for node in late.view().nodes] == ["node-0", "node-1"]
    await client.dissolve(group)


async def test_a_scheduler_that_is_stopped_makes_no_node_silent(
    cluster: RealCluster, joined: tuple[ClusterClient, Listening]
) -> None:
    """All that a client heard of nodes came by way of it."""
    _, heard = joined
    since_s = time.monotonic()
    cluster.processes["scheduler"].send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(6.0)
        assert max(heard.longest_silence_s(node, since_s) for node in ("node-0", "node-1")) < 3.0
    finally:
        cluster.processes["scheduler"].send_signal(signal.SIGCONT)


async def test_a_node_that_is_stopped_is_silent_and_then_gone_and_is_heard_again(
    cluster: RealCluster, joined: tuple[ClusterClient, Listening], published: Published
) -> None:
    """Its machine's connections stay open, and nobody noticed."""
    client, heard = joined
    node = cluster.processes["node-1"]
    group = await form(client, published.checkpoint, 2)
    node.send_signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    try:
        await until(lambda: NodeLeft("node-1") in heard.of(NodeLeft), 20.0)
        assert heard.longest_silence_s("node-1", stopped_s) > 8.0
        assert "node-1" in group.cause
        assert [event.group for event in heard.of(GroupLost)] == [group.name]  # type: ignore[attr-defined]
        with pytest.raises(NodeLost):
            await client._order("node-1", AskReport("", 0), NodeReport, TIMEOUT_S)
    finally:
        node.send_signal(signal.SIGCONT)
    await until(lambda: client.view().node("node-1") is not None)
    await client.dissolve(group)
    await until(lambda: not client.view().node("node-1").groups)  # type: ignore[union-attr]


async def dies_with_a_group(cluster: RealCluster, published: Published) -> tuple[str, float]:
    """A front end that forms a group of two, says so, and is killed in the middle of an answer: the group's name and when
    that was."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_FRONTEND), cluster.scheduler_address, cluster.store_url, published.name,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(_FRONTEND.parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        while not (line := (await process.stdout.readline()).decode()).startswith("formed "):
            assert line, "the front end ended"
        name = line.split()[1]
        assert (await process.stdout.readline()).startswith(b"answering")
    process.kill()
    await process.wait()
    return name, time.monotonic()


async def test_a_group_outlives_its_front_end_and_one_of_two_others_has_it_within_seconds(
    cluster: RealCluster, joined: tuple[ClusterClient, Listening], published: Published
) -> None:
    """It ran on for nobody until its lease ended, and the next front end started the model anew."""
    client, heard = joined
    async with listening(cluster) as (rival, heard_by_rival):
        name, killed_s = await dies_with_a_group(cluster, published)
        await until(lambda: heard.found(name) and heard_by_rival.found(name), 5.0)
        (found,) = heard.found(name)
        assert (found.group, found.key) == (name, (published.name, published.checkpoint.digest))
        assert sorted(stage.node for stage in found.placement.stages) == ["node-0", "node-1"]
        taken = await asyncio.gather(client.adopt(name), rival.adopt(name), return_exceptions=True)
        (group,) = [one for one in taken if isinstance(one, Group)]
        assert [one for one in taken if isinstance(one, Refused)], taken
        assert time.monotonic() - killed_s < 5.0
        owner = client if group is taken[0] else rival
        assert group.placement == found.placement
        await says_what_it_should(group, published, "r")
        await asyncio.sleep(2.5)
        assert not group.lost.is_set()
        assert len(heard.found(name)) == len(heard_by_rival.found(name)) == 1
        await owner.dissolve(group)
        assert {node.device_reserved_bytes for node in owner.view().nodes} == {0}


async def test_the_groups_of_a_front_end_that_lives_are_nobody_elses(
    cluster: RealCluster, joined: tuple[ClusterClient, Listening], published: Published
) -> None:
    client, heard = joined
    async with listening(cluster) as (other, heard_by_other):
        group = await form(client, published.checkpoint, 2)
        await asyncio.sleep(4.0)
        assert not heard_by_other.found(group.name)
        with pytest.raises(Refused, match="has an owner"):
            await other.adopt(group.name)
        await says_what_it_should(group, published, "r")
        await client.dissolve(group)
    assert not heard.found(group.name)


async def test_an_owner_who_comes_too_late_loses_the_group_and_says_so(
    cluster: RealCluster, joined: tuple[ClusterClient, Listening], published: Published
) -> None:
    """It was held up for so long that another one took its group: both would have had it."""
    client, heard = joined
    group = await form(client, published.checkpoint, 2)
    held = dict(client._leases._held)
    client._leases.release(group.name)
    async with listening(cluster) as (heir, heard_by_heir):
        await until(lambda: heard_by_heir.found(group.name), 20.0)
        adopted = await heir.adopt(group.name)
        client._leases._held |= held
        await until(lambda: heard.of(GroupLost), 5.0)
        await client.dissolve(group)
        await says_what_it_should(adopted, published, "r")
