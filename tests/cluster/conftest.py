"""A client of the shared cluster."""

from collections.abc import AsyncIterator

import pytest_asyncio

from cluster.client import ClusterClient
from tests.real_cluster import RealCluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(shared_cluster: RealCluster) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(shared_cluster.scheduler_address) as connected:
        await connected.nodes(4, 90)
        yield connected
