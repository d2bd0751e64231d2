"""What a cluster listens on, and what its HTTP servers show."""

import asyncio
import ipaddress
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from distributed import Client

from cluster.client import ClusterClient
from cluster.scheduler import own_pages
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.cluster.groups import PROMPT, form, generate
from tests.firsttoken.processes import listening
from tests.real_cluster import RealCluster
from tests.tiny import make_tiny

pytestmark = pytest.mark.asyncio(loop_scope="session")
_WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def test_a_group_listens_on_loopback_alone(
    client: ClusterClient, shared_cluster: RealCluster, shared_store: ModelStore, tmp_path: Path
) -> None:
    """Its stages have two ports each: their own, and gloo's, which takes the interface that it is told."""
    checkpoint = publish(str(make_tiny("llama", tmp_path, seed=29)), "listening", shared_store)
    group = await form(client, checkpoint, 4)
    try:
        assert await generate(group, "r", PROMPT, 2)
        pids = [process.pid for process in shared_cluster.processes.values() if process.poll() is None]
        for pid in tuple(pids):
            with suppress(psutil.NoSuchProcess):  # a node that another test has ended
                pids += [child.pid for child in psutil.Process(pid).children(recursive=True)]
        found = listening(pids)
        assert sum(len(addresses) == 2 for addresses in found.values()) >= 4
        assert {ipaddress.ip_address(one).is_loopback for addresses in found.values() for one in addresses} == {True}
    finally:
        await client.dissolve(group)


async def test_dasks_http_servers_ask_nobody_for_others_and_show_little(
    client: ClusterClient, shared_cluster: RealCluster
) -> None:
    """The scheduler's can be a proxy, and lets any page open its dashboard's websockets."""
    found = re.search(r"dashboard at: *http://([\d.:]+)/", shared_cluster.log("scheduler"))
    assert found is not None
    async with httpx.AsyncClient(base_url=f"http://{found[1]}", trust_env=False) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get(f"/proxy/{found[1].replace('.', '/')}/health")).status_code == 404
        foreign = _WEBSOCKET | {"Origin": "http://evil.example"}
        assert (await http.get("/eventstream", headers=foreign)).status_code == 403
        async with Client(shared_cluster.scheduler_address, asynchronous=True, set_as_default=False) as dask:
            workers = (await dask.scheduler.identity(n_workers=-1))["workers"].values()
        ports = [worker["services"]["dashboard"] for worker in workers]
        assert len(ports) == 4
        for port in ports:
            statuses = [
                (await http.get(f"http://127.0.0.1:{port}{path}")).status_code for path in ("/health", "/metrics")
            ]
            assert statuses == [200, 404]


async def test_dasks_dashboard_is_there_once_it_is_asked_for_and_talks_to_its_own_pages(
    shared_cluster: RealCluster,
) -> None:
    """It said that it needs bokeh. Now two who come at once get its page, which loads nothing from elsewhere."""
    found = re.search(r"dashboard at: *(http://[\d.:]+)/", shared_cluster.log("scheduler"))
    assert found is not None
    async with httpx.AsyncClient(base_url=found[1], trust_env=False, follow_redirects=True, timeout=60) as http:
        pages = await asyncio.gather(*(http.get(path) for path in ("/", "/status", "/workers")))
        assert [(page.status_code, page.url.path) for page in pages] == [
            (200, "/status"),
            (200, "/status"),
            (200, "/workers"),
        ]
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', pages[0].text)
        assert any("bokeh" in each for each in loaded)
        assert not [each for each in loaded if "//" in each]
        assert (await http.get("/nothing")).status_code == 404
        foreign = _WEBSOCKET | {"Origin": "http://evil.example"}
        assert (await http.get("/status/ws", headers=foreign)).status_code == 403


async def test_a_dashboard_opens_its_websockets_for_its_own_pages() -> None:
    origins = "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin"
    assert own_pages("10.0.0.1", 8787)[origins] == ["10.0.0.1:8787", "localhost:8787", "127.0.0.1:8787"]


async def test_a_scheduler_whose_dashboard_cannot_be_where_it_is_said_to_be_says_so_and_ends() -> None:
    """Dask takes another port then, and what was printed is a stranger's page."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = f"from cluster.scheduler import run_scheduler; run_scheduler('127.0.0.1', 0, {port})"
        scheduler = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
        _, said = await asyncio.wait_for(scheduler.communicate(), 60)
    assert scheduler.returncode == 1
    assert f"port {port}, of the dashboard, is in use" in said.decode()
