"""Nodes that fetch from one another: real Dask workers, a store that has lost its bytes, and no secret that leaks."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.client import ClusterClient
from cluster.errors import ClusterError, ProtocolError
from cluster.model_facts import facts_of
from cluster.node.exchange import KEPT_PEERS, UnitExchange
from cluster.scheduler import without_contents
from cluster.wire.orders import FormStage, Peer
from cluster.wire.vocabulary import from_wire, to_wire
from schedules.facts import Node, Placement, View
from schedules.placing.policies.fixed import place
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, served
from tests.cluster.leftovers import report_of
from tests.real_cluster import RealCluster, run_cluster


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two nodes that run stages, and a keeper that has no room for any but keeps units."""
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=2) as running:
        running.start_node("keeper", device_bytes=1)
        yield running


@asynccontextmanager
async def connected(cluster: RealCluster, nodes: int = 3) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(cluster.scheduler_address) as client:
        await client.nodes(nodes, 90)
        yield client


async def until(client: ClusterClient, name: str, condition: Callable[[Node], bool]) -> Node:
    """The node once its report is as wanted."""
    async with asyncio.timeout(TIMEOUT_S):
        await client._hearing.until(lambda: (node := client.view().node(name)) is not None and condition(node))
    node = client.view().node(name)
    assert node is not None
    return node


async def bring(client: ClusterClient, node: str, checkpoint: Checkpoint, tier: str) -> int:
    """Have the whole model on a node and be told of it; the bytes that had to be fetched."""
    report = await client.bring(node, checkpoint, [unit.name for unit in checkpoint.units], tier, TIMEOUT_S)
    digests = {unit.digest for unit in checkpoint.units}
    await until(client, node, lambda found: {found.units.get(digest) for digest in digests} == {tier})
    return report.fetched_bytes


async def _until_known(http: httpx.AsyncClient, node: str, dram_bytes: int) -> None:
    """A front end hears of what is in a node's dram by itself, and may be the last to."""
    for _ in range(200):
        nodes = (await http.get("/admin/status")).json()["nodes"]
        if any(found["name"] == node and found["dram_used_bytes"] >= dram_bytes for found in nodes):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{node} is not known to have {dram_bytes} bytes: {nodes}")


# ---- where units come from


async def test_a_request_is_served_from_another_nodes_memory_when_the_store_has_lost_the_bytes(
    cluster: RealCluster, published: Published
) -> None:
    url = cluster.start_frontend("peers-frontend", max_degree=2)
    async with connected(cluster) as client:
        assert await bring(client, "keeper", published.checkpoint, "dram") == published.checkpoint.size_bytes
    published.lose_the_bytes()
    body = {"model": published.name, "prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True}
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        await _until_known(http, "keeper", published.checkpoint.size_bytes)
        answer = (await http.post("/v1/completions", json=body)).json()
        starts = (await http.get("/admin/cold-starts", params={"model": published.name})).json()["cold_starts"]
    assert "choices" in answer, answer
    assert answer["choices"][0]["token_ids"] == published.expected
    fetches = [phase for phase in starts[0]["phases"] if phase["name"].startswith("fetch")]
    assert {phase["where"] for phase in fetches} == {"node-0 from peer keeper", "node-1 from peer keeper"}
    assert sum(phase["bytes"] for phase in fetches) >= published.checkpoint.size_bytes


@pytest.mark.parametrize("behind", [False, True])
async def test_a_start_comes_from_another_nodes_ssd(cluster: RealCluster, published: Published, behind: bool) -> None:
    """What was brought to ssd alone is in no dram: it is let go when it is written."""
    async with connected(cluster) as client:
        await bring(client, "keeper", published.checkpoint, "ssd")
        published.lose_the_bytes()
        assert await served(client, "node-0", published, behind=behind) == {"node-0 from peer keeper"}


async def test_bringing_goes_from_node_to_node(cluster: RealCluster, published: Published) -> None:
    async with connected(cluster) as client:
        await bring(client, "keeper", published.checkpoint, "dram")
        published.lose_the_bytes()
        assert await bring(client, "node-1", published.checkpoint, "ssd") == published.checkpoint.size_bytes


async def test_a_model_that_nobody_holds_is_a_clear_error(cluster: RealCluster, published: Published) -> None:
    published.lose_the_bytes()
    async with connected(cluster) as client:
        with pytest.raises(ClusterError, match="is not there"):
            await served(client, "node-0", published)


async def test_units_are_asked_for_at_all_that_hold_them(cluster: RealCluster, published: Published) -> None:
    async with connected(cluster) as client:
        for node in ("keeper", "node-1"):
            await bring(client, node, published.checkpoint, "dram")
        published.lose_the_bytes()
        assert await served(client, "node-0", published) == {"node-0 from peer keeper", "node-0 from peer node-1"}


async def test_an_order_asks_along_the_placements_lists_and_leaves_out_who_is_gone(
    cluster: RealCluster, published: Published
) -> None:
    """The client made lists of its own, of other nodes than the decision had reckoned with."""
    async with connected(cluster) as client:
        await bring(client, "keeper", published.checkpoint, "dram")
        node = client.view().node("node-0")
        keeper = client.view().node("keeper")
        assert node is not None
        assert keeper is not None
        placement = place(facts_of(published.checkpoint), View((node, keeper)), 1, 1024)
        assert isinstance(placement, Placement)
        ((_, order),) = client._orders("g", placement, published.checkpoint, 1.0)
        assert tuple(order.sources[unit.digest] for unit in order.units) == placement.stages[0].sources
        assert set(placement.stages[0].sources) == {("peer:keeper", "store")}
        assert [peer.name for peer in order.peers] == ["keeper"]
        del client._hearing.roster.known["keeper"]
        ((_, later),) = client._orders("g", placement, published.checkpoint, 1.0)
        assert (later.peers, later.sources) == ((), order.sources)


# ---- nodes that fail


async def test_a_peer_that_hangs_costs_a_moment(cluster: RealCluster, published: Published) -> None:
    """Its kernel goes on taking connections."""
    keeper = cluster.processes["keeper"]
    async with connected(cluster) as client:
        await bring(client, "keeper", published.checkpoint, "dram")
        keeper.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while psutil.Process(keeper.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert await served(client, "node-0", published) == {"node-0 from remote"}
        finally:
            keeper.send_signal(signal.SIGCONT)


async def test_a_peer_that_was_killed_costs_nothing_but_its_units(cluster: RealCluster, published: Published) -> None:
    cluster.start_node("victim", device_bytes=1)
    async with connected(cluster, 4) as client:
        await bring(client, "victim", published.checkpoint, "dram")
        cluster.kill("victim")
        assert "victim" in [node.name for node in client.view().nodes], "the order names it as a peer"
        assert await served(client, "node-1", published) == {"node-1 from remote"}


async def test_a_node_that_shall_not_use_peers_neither_asks_nor_gives(
    cluster: RealCluster, published: Published, store: ModelStore
) -> None:
    cluster.start_node("loner", use_peers=False)
    try:
        async with connected(cluster, 4) as client:
            loner = client.view().node("loner")
            assert loner is not None
            assert loner.peer_port == 0
            await bring(client, "keeper", published.checkpoint, "dram")
            assert await served(client, "loner", published) == {"loner from remote"}
            published.lose_the_bytes()
            await client.evict("keeper", published.checkpoint)
            with pytest.raises(ClusterError, match="is not there"):
                await served(client, "node-0", published)
    finally:
        cluster.kill("loner", signal.SIGTERM)


# ---- secrets


async def test_no_secret_is_shown(cluster: RealCluster, published: Published) -> None:
    url = cluster.start_frontend("secrets-frontend")
    async with connected(cluster) as client:
        await bring(client, "keeper", published.checkpoint, "dram")
        await served(client, "node-0", published)
        reports = [await report_of(client, node.name) for node in client.view().nodes]
        shown = [repr(client.view()), repr(reports)]
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        paths = ("/metrics", "/admin/status", "/admin/cold-starts", "/healthz", "/v1/models", "/openapi.json")
        shown += [(await http.get(path)).text for path in paths]
    shown += [path.read_text() for path in cluster.folder.glob("*.log")]
    secrets = [
        secret for report in reports for secret in (report.peer_secret, report.rendezvous_secret, report.orders_secret)
    ]
    assert len(set(secrets)) == 9
    assert all(len(secret) >= 32 for secret in secrets)
    assert not [text for text in shown for secret in secrets if secret in text]


async def test_stages_of_a_group_that_share_a_machine_are_told_so(cluster: RealCluster, published: Published) -> None:
    async with connected(cluster) as client:
        nodes = client.view().nodes
        assert len({node.machine for node in nodes}) == 1
        for degree in (1, 2):
            placement = place(facts_of(published.checkpoint), client.view(), degree, 1024)
            assert isinstance(placement, Placement)
            orders = client._orders("g", placement, published.checkpoint, 1.0)
            assert [order.sharing for _, order in orders] == [degree] * degree
        for known in client._hearing.roster.known.values():
            known.node = replace(known.node, machine=known.node.name)
        assert [order.sharing for _, order in client._orders("g", placement, published.checkpoint, 1.0)] == [1, 1]


def test_what_could_not_be_sent_to_a_client_is_not_in_the_schedulers_log(caplog: pytest.LogCaptureFixture) -> None:
    """As Dask's scheduler says it, with all that was to be sent."""
    log = logging.getLogger("distributed.scheduler")
    log.addFilter(without_contents)
    try:
        log.critical("Closed comm %r while trying to write %s", None, {"peer_secret": "very secret"}, exc_info=True)
        log.warning("Worker %s failed", "node-0")
    finally:
        log.removeFilter(without_contents)
    assert [record.getMessage() for record in caplog.records] == ["a client has gone", "Worker node-0 failed"]
    assert "very secret" not in caplog.text


def test_a_message_that_does_not_fit_shows_no_secret() -> None:
    """The fault's own text shows what was said, and that is logged."""
    peer = Peer("n", "h", 1, "very secret")
    order = FormStage("g", "m", 0, "{}", "float32", (0, 1), (), "h", 1, "very secret", 0, 0, 1.0, 1.0, (peer,))
    wire = to_wire(order)
    for broken in (
        {**wire, "peers": [{**wire["peers"][0], "port": "many"}]},
        {**wire, "peers": [{"secret": "very secret"}]},
        {**wire, "peers": ["very secret"]},
        {**wire, "rank": "very secret"},
    ):
        with pytest.raises(ProtocolError, match="not a message: FormStage") as refused:
            from_wire(broken)
        assert "very secret" not in f"{refused.value!r} {refused.value.__cause__!r}"
    assert "very secret" not in repr(order)


# ---- the book of peers


def test_a_peer_is_known_by_its_secret_and_only_so_many_are_remembered(tmp_path: Path) -> None:
    dram = DramTier(1 << 20)
    peers = UnitExchange(dram, SsdTier(tmp_path, 1 << 20), "127.0.0.1", taking_part=True)
    asked = ("ssd", "peer:gone", "peer:n", "store")
    try:
        peer = Peer("n", "127.0.0.1", peers.port, peers.secret)
        (first,) = peers.sources([peer], asked)
        assert peers.sources([peer], ("store",)) == []
        assert peers.sources([peer], asked) == [first]
        assert peers.sources([replace(peer, secret="a new start")], asked) != [first]
        for number in range(KEPT_PEERS):
            peers.sources([replace(peer, secret=str(number))], asked)
        assert peers.sources([peer], asked) != [first]
        assert len(peers._tiers) == KEPT_PEERS
    finally:
        peers.close()
        dram.close()
