"""What nodes measure of themselves: passively, by probes, on order; and that it survives them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from cluster.errors import Refused, StageFailed
from cluster.node.rate_book import FILE
from cluster.wire.orders import OF_NODE, OF_STORE
from schedules.facts import Node
from schedules.rates import DECODE, NIC, PREFILL, REACH, SSD, STORE, formed
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import form, form_on, generate, prompts_of
from tests.real_cluster import RealCluster, run_cluster
from tests.tiny import make_tiny
from tests.withholding_store import run_withholding_store

WAIT_S = 60.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """One node over a store in which nothing is published yet."""
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=1) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(cluster: RealCluster) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(cluster.scheduler_address) as connected:
        await connected.nodes(1, WAIT_S)
        yield connected


@pytest.fixture(scope="module")
def checkpoint(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of 40 MB: large enough for its transfers and steps to be measured."""
    folder = make_tiny(
        "llama", tmp_path_factory.mktemp("source"), hidden_size=512, intermediate_size=1536, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=1024, num_hidden_layers=3,
    )  # fmt: skip
    return publish(str(folder), "middling", store)


async def until(client: ClusterClient, holds: Callable[[Node], bool]) -> Node:
    """The only node, once its report is as wanted. TimeoutError if that takes too long."""
    async with asyncio.timeout(WAIT_S):
        while True:
            nodes = client.view().nodes
            if nodes and holds(nodes[0]):
                return nodes[0]
            await asyncio.sleep(0.1)


async def test_a_node_that_has_joined_measures_itself(cluster: RealCluster, client: ClusterClient) -> None:
    node = await until(client, lambda node: set(OF_NODE) <= node.rates.keys())
    assert node.rates.keys() == set(OF_NODE), "nothing is published: the store cannot be measured"
    for name, rate in node.rates.items():
        assert rate.mean > 0, name
        assert rate.samples == 1


async def test_a_probe_leaves_nothing_behind(cluster: RealCluster, client: ClusterClient) -> None:
    await until(client, lambda node: SSD in node.rates)
    await client.probe("node-0", OF_NODE, 0.2, keep=False)
    left = {path.name for path in (cluster.folder / "node-0" / "ssd").iterdir()}
    assert left <= {FILE}
    assert client.view().nodes[0].ssd_used_bytes == client.view().nodes[0].dram_used_bytes == 0


async def test_the_store_is_measured_as_soon_as_something_is_published(
    client: ClusterClient, checkpoint: Checkpoint
) -> None:
    node = await until(client, lambda node: set(OF_STORE) <= node.rates.keys())
    assert 0 < node.rates[REACH].mean < 1
    assert node.units == {}, "a probe fills no tier"


async def test_serving_measures_along_the_way(client: ClusterClient, checkpoint: Checkpoint) -> None:
    before = (await until(client, lambda node: set(OF_STORE) <= node.rates.keys())).rates
    group = await form(client, checkpoint, degree=1)
    await generate(group, "r", prompts_of(1024, [64])[0], 40)
    grown = (NIC, DECODE, PREFILL)
    node = await until(client, lambda node: all(node.rates[n].samples > before[n].samples for n in grown))
    await client.dissolve(group)
    assert node.rates[NIC].bad <= node.rates[NIC].mean * 10
    assert node.rates[formed(1)] == before[formed(1)], "units were on the wire meanwhile: it would tell of them"
    await client.dissolve(await form(client, checkpoint, degree=1))
    await until(client, lambda node: node.rates[formed(1)].samples > before[formed(1)].samples)


async def test_what_was_measured_outlives_the_node(cluster: RealCluster, client: ClusterClient) -> None:
    before = client.view().nodes[0]
    await client.limit_store("node-0", 1e9)
    cluster.kill("node-0", 15)
    kept = json.loads((cluster.folder / "node-0" / "ssd" / FILE).read_text())["samples"]
    cluster.start_node("node-0")
    node = await until(client, lambda node: node.address != before.address and STORE in node.rates)
    assert node.rates[STORE].mean == 1e9
    assert node.rates.keys() == before.rates.keys() | {STORE}
    assert {name: rate.samples for name, rate in node.rates.items() if name != STORE} == {
        name: len(samples) for name, samples in kept.items()
    }, "a node that knows measures nothing anew"


async def test_in_the_middle_of_a_cold_start_a_node_measures_nothing(
    cluster: RealCluster, client: ClusterClient, store: ModelStore, tmp_path: Path
) -> None:
    """A unit hangs in its store, so that the start lasts."""
    withheld = publish(str(make_tiny("llama", tmp_path)), "withheld", store)
    with run_withholding_store(Path(store.objects.url.removeprefix("file://")), "layer.0001") as silent:
        cluster.start_node("waiting", store_url=f"{silent.url}/withheld")
        async with asyncio.timeout(WAIT_S):
            while (node := client.view().node("waiting")) is None or SSD not in node.rates:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        group = await form_on(client, "waiting", withheld)
        for what in (OF_NODE, OF_STORE):
            with pytest.raises(Refused, match="waiting starts a model or loads units"):
                await client.probe("waiting", what, 0.1, keep=False)
        silent.release()
        assert len(await generate(group, "r", prompts_of(256, [4])[0], 3)) == 3
        assert (await client.probe("waiting", (SSD,), 0.1, keep=False)).keys() == {SSD}
        await client.dissolve(group)
        cluster.kill("waiting", 15)


async def test_what_nobody_can_measure_on_order_is_named(client: ClusterClient) -> None:
    with pytest.raises(StageFailed, match="speed of light cannot be measured"):
        await client.probe("node-0", ("speed of light",), 0.1, keep=False)
