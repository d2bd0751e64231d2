"""A client of the shared cluster; a store of a module's own, and what is published there."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.client import ClusterClient
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from tests.cluster.groups import Published
from tests.real_cluster import RealCluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(shared_cluster: RealCluster) -> AsyncIterator[ClusterClient]:
    async with ClusterClient(shared_cluster.scheduler_address) as connected:
        await connected.nodes(4, 90)
        yield connected


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))


@pytest.fixture
def published(store: ModelStore, tmp_path: Path) -> Published:
    return Published(store, tmp_path)
