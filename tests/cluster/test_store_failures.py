"""An object store that fails under a node: objects that are missing or bad, networks and credentials that are."""

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from cluster.client import ClusterClient
from cluster.errors import StageFailed
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, served
from tests.cluster.leftovers import nothing_of
from tests.real_cluster import RealCluster, run_cluster
from tests.s3_server import S3Server, run_s3_server
from tests.storage_tiers.bad_network import proxy, reset

UNIT = "layer.0002"
NODE = "node-0"
START_TIMEOUT_S = 10.0
"""So long a store that may come back is waited for."""


class Network:
    """What the node's connections to the store go through; it does to them what it is told."""

    def __init__(self) -> None:
        self.broken, self.slow = False, False
        self.was_reset = 0

    def __call__(self, _number: int, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(8192):
            if self.broken:
                self.was_reset += 1
                reset(client)
                return
            if self.slow:
                threading.Event().wait(0.01)
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)  # the server gave up what was idle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def store(server: S3Server) -> ModelStore:
    return ModelStore(ObjectStore(server.bucket("models"), server.options))


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def cluster(
    server: S3Server, store: ModelStore, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealCluster]:
    """One node, which reaches the store through `network`, and a front end, which reaches it well."""
    url, folder = store.objects.url, tmp_path_factory.mktemp("cluster")
    with proxy(server.endpoint_url, network) as endpoint, run_cluster(folder, url, nodes=0) as running:
        running.start_node(NODE, store_options={**server.options, "endpoint_url": endpoint})
        running.url = running.start_frontend(
            max_degree=1, store_options=server.options, keep_alive_s=0.2, start_timeout_s=START_TIMEOUT_S
        )
        yield running


@pytest.fixture
def published(store: ModelStore, tmp_path: Path) -> Published:
    return Published(store, tmp_path)


class Harmed:
    """An object of the store to which something is done, until it is mended."""

    def __init__(self, published: Published, unit: str) -> None:
        self._objects = published.store.objects
        self._key = published.store.unit_key(published.name, published.checkpoint.unit(unit))
        self._right = self._objects.read(self._key)

    def remove(self) -> None:
        self._objects.remove(self._key)

    def truncate(self) -> None:
        self._objects.write(self._key, self._right[:5000])

    def change(self) -> None:
        self._objects.write(self._key, self._right[:5000] + b"wrong" + self._right[5005:])

    def mend(self) -> None:
        self._objects.write(self._key, self._right)


@asynccontextmanager
async def joined(cluster: RealCluster, name: str = NODE) -> AsyncIterator[ClusterClient]:
    """A client that has heard of the node."""
    async with ClusterClient(cluster.scheduler_address) as client:
        await client.nodes(1 if name == NODE else 2, TIMEOUT_S)
        assert client.view().node(name) is not None
        yield client


async def ask(cluster: RealCluster, published: Published) -> httpx.Response:
    """A request for the model's first tokens."""
    body = {"model": published.name, "prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True}
    async with httpx.AsyncClient(base_url=cluster.url, timeout=TIMEOUT_S) as http:
        return await http.post("/v1/completions", json=body)


async def fails(cluster: RealCluster, client: ClusterClient, published: Published, *words: str) -> None:
    """A request for the model is an error with these words, and nothing is left of it."""
    answer = await ask(cluster, published)
    assert answer.status_code == 503, answer.text
    message = answer.json()["error"]["message"]
    assert all(word in message for word in words), message
    assert "\n" not in message
    await nothing_of(published.checkpoint, client, cluster, NODE, cluster.folder / NODE / "ssd")


async def answers(cluster: RealCluster, client: ClusterClient, published: Published) -> None:
    """A request for the model gives the right tokens, and nothing is left of it."""
    answer = await ask(cluster, published)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["token_ids"] == published.expected
    await nothing_of(published.checkpoint, client, cluster, NODE, cluster.folder / NODE / "ssd")


@pytest.mark.parametrize(
    ("harm", "cause"),
    [(Harmed.remove, "is not there"), (Harmed.truncate, "size 5000"), (Harmed.change, "has another crc32c")],
    ids=["missing", "truncated", "changed"],
)
async def test_a_bad_object_fails_requests_with_its_name_until_it_is_mended(
    cluster: RealCluster, published: Published, harm: Callable[[Harmed], None], cause: str
) -> None:
    harmed = Harmed(published, UNIT)
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as asking:  # a front end that sees it at once starts nothing
        assert (await asking.get(f"{cluster.url}/v1/models/{published.name}")).status_code == 200
    harm(harmed)
    async with joined(cluster) as client:
        await fails(cluster, client, published, UNIT, cause)
        harmed.mend()
        await answers(cluster, client, published)


async def test_a_store_whose_connections_break_is_a_clear_error_until_they_hold(
    cluster: RealCluster, published: Published, network: Network
) -> None:
    async with joined(cluster) as client:
        network.broken = True
        try:
            await fails(cluster, client, published, f"{published.name}/", "ConnectionResetError")
        finally:
            network.broken = False
        assert network.was_reset
        await answers(cluster, client, published)


async def test_a_slow_store_is_waited_for(cluster: RealCluster, published: Published, network: Network) -> None:
    async with joined(cluster) as client:
        network.slow = True
        try:
            await answers(cluster, client, published)
        finally:
            network.slow = False


async def test_wrong_credentials_are_named(cluster: RealCluster, server: S3Server, published: Published) -> None:
    cluster.start_node("stranger", store_options={**server.options, "secret": "wrong"})
    try:
        async with joined(cluster, "stranger") as client:
            with pytest.raises(StageFailed) as failed:
                await served(client, "stranger", published)
            assert "credentials" in str(failed.value)
            await nothing_of(published.checkpoint, client, cluster, "stranger", cluster.folder / "stranger" / "ssd")
    finally:
        cluster.kill("stranger")
