"""A cluster that speaks TLS: it serves, and turns away who has no certificate of its authority."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from distributed.comm import connect
from torch.distributed import DistStoreError

from cluster.client import ClusterClient
from cluster.errors import ClusterUnreachable
from cluster.stage.joining.meeting import Meeting
from cluster.wire.codec import frame, read_frame
from cluster.wire.encryption import Tls, security
from cluster.wire.hello import Hello, group_secret
from cluster.wire.orders import AskReport
from cluster.wire.reports import NodeReport
from firsttoken.credentials import with_certificates
from firsttoken.settings import load_settings
from storage_tiers.model_store import ModelStore
from tests.cluster.groups import PROMPT, TIMEOUT_S, TOKENS, Published, form, generate
from tests.real_cluster import RealCluster, run_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


def certificates(home: Path) -> Tls:
    """Of an authority that nobody has but this home."""
    cluster = with_certificates(load_settings(environment={"FIRSTTOKEN_HOME": str(home)}), datetime.now(UTC)).cluster
    return Tls(cluster.tls_ca, cluster.tls_cert, cluster.tls_key)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Certificates of another authority."""
    return certificates(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def cluster(store: ModelStore, ours: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=2, tls=ours) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(cluster: RealCluster, ours: Tls) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(cluster.scheduler_address, ours) as client:
        await client.nodes(2, 90)
        yield client


async def test_requests_are_served(cluster: RealCluster, secured: ClusterClient, published: Published) -> None:
    url = cluster.start_frontend("frontend", max_degree=2)
    body = {"model": published.name, "prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True}
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        answer = (await http.post("/v1/completions", json=body)).json()
        starts = (await http.get("/admin/cold-starts", params={"model": published.name})).json()["cold_starts"]
    assert answer["choices"][0]["token_ids"] == published.expected
    assert starts[0]["degree"] == 2


async def test_who_has_no_certificate_of_this_authority_joins_nothing(
    cluster: RealCluster, secured: ClusterClient, theirs: Tls
) -> None:
    """Whoever reached the scheduler's port or a node's could run code there."""
    address = cluster.scheduler_address
    for stranger in (
        ClusterClient(address.replace("tls:", "tcp:"), None, 1.0),
        ClusterClient(address, theirs, 1.0),
    ):
        with pytest.raises(ClusterUnreachable):
            async with stranger:
                pass
    for place in (address, secured.view().nodes[0].address):
        assert place.startswith("tls://")
        with pytest.raises(OSError):
            await connect(place.replace("tls:", "tcp:"), timeout=1)
        comm = None
        with pytest.raises(OSError):
            comm = await connect(place, timeout=1, **security(theirs).get_connection_args("client"))
        assert comm is None


async def test_a_stage_and_a_rendezvous_want_certificates_beside_secrets(
    secured: ClusterClient, ours: Tls, theirs: Tls, published: Published
) -> None:
    group = await form(secured, published.checkpoint, 2)
    try:
        assert await generate(group, "r", PROMPT, TOKENS) == published.expected
        host, port = group._writer.get_extra_info("peername")
        for context in (None, theirs.client()):
            with pytest.raises((OSError, EOFError)):
                await _greeted(host, port, context)
        node = group.placement.stages[0].node
        report = await secured._order(node, AskReport("", 0), NodeReport, TIMEOUT_S)
        hello = Hello("group", group_secret(report.rendezvous_secret, "group"))
        for context in (None, theirs.client()):
            with pytest.raises(DistStoreError, match="does not answer"):
                await asyncio.to_thread(
                    lambda tls: Meeting(host, report.rendezvous_port, hello, 5.0, tls).check(["key"]), context
                )
        member = Meeting(host, report.rendezvous_port, hello, 5.0, ours.client())
        assert not await asyncio.to_thread(member.check, ["key"])
        member.close()
    finally:
        await secured.dissolve(group)


async def _greeted(host: str, port: int, context: object) -> None:
    """Say hello as the front end does. EOFError if the door is closed on us."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context)  # type: ignore[arg-type]
    try:
        writer.write(frame(Hello("group", "a guess")))
        if await asyncio.wait_for(read_frame(reader), TIMEOUT_S) is None:
            raise EOFError
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_who_greets_in_the_clear_hears_nothing(cluster: RealCluster, secured: ClusterClient) -> None:
    """Dask greets whoever comes with its versions, before it knows who that is; here that needs TLS first."""
    host, _, port = cluster.scheduler_address.removeprefix("tls://").rpartition(":")

    def heard() -> bytes:
        with socket.create_connection((host, int(port)), 1.0) as connection:
            try:
                return connection.recv(1024)
            except TimeoutError:
                return b""

    assert await asyncio.to_thread(heard) == b""
