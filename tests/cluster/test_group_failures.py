"""A stage that dies, hangs or runs out of memory: its group ends with the cause, and nothing else does; nothing leaks."""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import psutil
import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from cluster.errors import StageFailed
from cluster.group import Group
from cluster.model_facts import facts_of
from cluster.wire.orders import Dissolve
from cluster.wire.reports import Done, StageFormed
from schedules.facts import Placement
from schedules.placing.policies.fixed import place
from schedules.rates import NIC, SSD, STREAM
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import form, form_on, generate
from tests.cluster.leftovers import report_of
from tests.real_cluster import RealCluster, run_cluster
from tests.tiny import make_tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = [5, 6, 7, 8]
DEADLINE_S = 60.0
FEW = 8
"""What may be there more after a hundred groups: threads of pools that grow up to a bound when they are first used."""


@pytest.fixture(scope="module")
def checkpoint(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    source = make_tiny("llama", tmp_path_factory.mktemp("model") / "source", max_position_embeddings=8192)
    return publish(str(source), "to-be-hurt", shared_store)


@pytest.fixture(scope="module")
def cluster(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two nodes of one's own, to be harmed."""
    with run_cluster(tmp_path_factory.mktemp("cluster"), shared_store.objects.url, nodes=2) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(cluster: RealCluster) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(cluster.scheduler_address) as connected:
        await connected.nodes(2, 90)
        yield connected


def stages(cluster: RealCluster) -> set[int]:
    """Process ids of all stage processes, waiting or busy."""
    nodes = [name for name in cluster.processes if name != "scheduler"]
    return {stage.pid for name in nodes for stage in cluster.stages(name)}


def first_stage(cluster: RealCluster, group: Group) -> psutil.Process:
    """The process that takes the group's requests."""
    port = group._writer.get_extra_info("peername")[1]
    (found,) = [
        process
        for process in map(psutil.Process, stages(cluster))
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))
    ]
    return found


async def ends(group: Group, causes: tuple[str, ...]) -> None:
    """Wait until the group is lost and says why."""
    async with asyncio.timeout(DEADLINE_S):
        await group.lost.wait()
        while not any(cause in group.cause for cause in causes):  # noqa: ASYNC110 - a node's word comes after the connection broke
            await asyncio.sleep(0.05)


def limit_memory(process: psutil.Process) -> None:
    """It may have a mebibyte more than it has."""
    used = process.memory_info().vms + (1 << 20)
    process.rlimit(resource.RLIMIT_AS, (used, used))


@pytest.mark.parametrize(
    ("harm", "causes"),
    [
        (lambda process: process.send_signal(signal.SIGKILL), ("process ended",)),
        (lambda process: process.send_signal(signal.SIGSTOP), ("no sign of life",)),
        (limit_memory, ("memory", "process ended")),  # a library's own thread that gets none ends the process
    ],
    ids=["killed", "hung", "out of memory"],
)
async def test_a_stage_that_is_harmed_ends_its_group_alone(
    client: ClusterClient,
    cluster: RealCluster,
    checkpoint: Checkpoint,
    harm: Callable[[psutil.Process], None],
    causes: tuple[str, ...],
) -> None:
    bystander = await form(client, checkpoint, 2)
    expected = await generate(bystander, "expected", PROMPT, 30)
    group = await form(client, checkpoint, 2, kv_tokens=8192)
    await generate(group, "first", PROMPT, 30)
    harm(first_stage(cluster, group))
    request = asyncio.ensure_future(generate(group, "long", [9] * 4000, 4000))
    await ends(group, causes)
    with pytest.raises(StageFailed):
        await request
    await client.dissolve(group)
    assert await generate(bystander, "again", PROMPT, 30) == expected
    await client.dissolve(bystander)


def held(process: psutil.Process) -> dict[str, int]:
    """What a process holds that could leak."""
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "sockets": len(process.net_connections("all")),
        "children": len(process.children(recursive=True)),
    }


async def settled(
    nodes: list[psutil.Process], wanted: list[dict[str, int]] | None = None, children: int = 2
) -> list[dict[str, int]]:
    """What the nodes hold once pools are full again, and, if that comes to pass in time, no more than was `wanted`. The
    children are the zygote, one process that waits, and those that serve."""
    for _ in range(int(DEADLINE_S * 5)):
        now = [held(node) for node in nodes]
        full = all(count["children"] == children for count in now)
        if full and (wanted is None or all(a[k] <= b[k] for a, b in zip(now, wanted, strict=True) for k in a)):
            break
        await asyncio.sleep(0.2)
    return now


async def test_a_stage_that_is_dissolved_while_it_is_formed_leaves_nothing(
    client: ClusterClient, cluster: RealCluster, checkpoint: Checkpoint
) -> None:
    """Where its process came when the stage was over, nobody ended it: it stayed for ever, with its descriptors. Where the
    process was there already, the order was answered when its whole timeout was over."""
    placement = place(facts_of(checkpoint), client.view(), 2, 512)
    assert isinstance(placement, Placement)
    orders = [client._orders(f"short-{n}", placement, checkpoint, DEADLINE_S)[0] for n in range(6)]
    forming = [asyncio.ensure_future(client._order(node, order, StageFormed, DEADLINE_S)) for node, order in orders]
    await asyncio.sleep(0.02)  # one process waits; what the others get must be forked first
    for node, order in orders:
        await client._order(node, Dissolve(order.group), Done, DEADLINE_S)
    answers = await asyncio.gather(*forming, return_exceptions=True)
    assert all(isinstance(answer, StageFailed) for answer in answers), answers
    node = orders[0][0]
    assert (await settled([psutil.Process(cluster.processes[node].pid)]))[0]["children"] == 2
    assert (await report_of(client, node)).stages == ()


async def test_a_stage_that_is_stopped_while_it_is_formed_fails_soon(
    client: ClusterClient, cluster: RealCluster, checkpoint: Checkpoint
) -> None:
    """It had given no sign of life that could have been missed: the start waited for its whole timeout."""
    placement = place(facts_of(checkpoint), client.view(), 2, 512)
    assert isinstance(placement, Placement)
    node, order = client._orders("alone", placement, checkpoint, 10 * DEADLINE_S)[0]
    await settled([psutil.Process(cluster.processes[node].pid)])
    async with asyncio.timeout(DEADLINE_S):
        while (await report_of(client, node)).idle_stage_processes != 1:  # noqa: ASYNC110 - it warms up before it waits
            await asyncio.sleep(0.05)
    (waiting,) = cluster.stages(node)
    forming = asyncio.ensure_future(client._order(node, order, StageFormed, 10 * DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while (await report_of(client, node)).idle_stage_processes:  # noqa: ASYNC110 - it has its order then, or nearly
            await asyncio.sleep(0.05)
        waiting.suspend()
        with pytest.raises(StageFailed, match="no sign of life"):
            await forming


async def test_nothing_outlives_an_agent_that_is_killed(
    client: ClusterClient, cluster: RealCluster, checkpoint: Checkpoint
) -> None:
    """Neither what computes, nor what waits, nor what is stopped and sees no channel close; nor the zygote."""
    cluster.start_node("doomed")
    async with asyncio.timeout(DEADLINE_S):
        while client.view().node("doomed") is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.05)
    busy, stopped = [await form_on(client, "doomed", checkpoint) for _ in range(2)]
    for group in (busy, stopped):
        await generate(group, "first", PROMPT, 10)
    await settled([psutil.Process(cluster.processes["doomed"].pid)], children=4)
    below = psutil.Process(cluster.processes["doomed"].pid).children(recursive=True)
    computing = first_stage(cluster, busy)
    request = asyncio.ensure_future(generate(busy, "long", [9] * 3000, 1000))
    await asyncio.sleep(0.2)
    for process in set(below) - {computing}:
        with suppress(psutil.NoSuchProcess):  # between a zygote and a stage there is one for a moment
            process.suspend()
    cluster.kill("doomed")
    _, alive = await asyncio.to_thread(psutil.wait_procs, below, timeout=DEADLINE_S)
    assert not alive
    with pytest.raises(StageFailed):
        await request


@pytest.mark.timeout(400)
async def test_a_hundred_groups_leave_nothing_behind(
    client: ClusterClient, cluster: RealCluster, checkpoint: Checkpoint
) -> None:
    """No descriptor, thread, socket, process or memory, on the nodes and here."""
    nodes = [psutil.Process(process.pid) for name, process in cluster.processes.items() if name.startswith("node")]
    everyone = [*nodes, psutil.Process()]

    async def round_trip() -> None:
        group = await form(client, checkpoint, 2)
        assert len(await generate(group, "r", PROMPT, 2)) == 2
        await client.dissolve(group)

    for _ in range(10):
        await round_trip()
    async with asyncio.timeout(DEADLINE_S):  # what a node does once, between starts, is no leak
        while not all({NIC, SSD, STREAM} <= node.rates.keys() for node in client.view().nodes):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    before, before_here = await settled(nodes), psutil.Process().num_fds()
    memory = [process.memory_info().rss for process in everyone]
    for _ in range(100):
        await round_trip()
    after = await settled(nodes, before)
    grown = [now[kind] - then[kind] for now, then in zip(after, before, strict=True) for kind in then]
    assert max(grown) < FEW, (before, after)
    assert psutil.Process().num_fds() < before_here + FEW
    grown = [process.memory_info().rss - was for process, was in zip(everyone, memory, strict=True)]
    assert max(grown) < 32 << 20, grown
