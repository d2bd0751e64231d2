"""What several packages' tests share: a cluster of four real nodes over one store, started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.real_cluster import RealCluster, run_cluster
from tests.smollm2 import smollm2_gguf
from tests.workers import ByFile, check

torch.set_num_threads(1)  # of two that share a core with others, each waits for the other at every layer
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check(items)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """The store that the shared cluster reads from; tests publish under names of their own."""
    return ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))


@pytest.fixture(scope="session")
def shared_cluster(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Four nodes that no test may harm."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with run_cluster(folder, shared_store.objects.url, nodes=4) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def smollm2(shared_store: ModelStore) -> Checkpoint:
    """SmolLM2-135M-Instruct in bfloat16, published from its GGUF file into the shared store."""
    return publish(str(smollm2_gguf()), "smollm2", shared_store)


@pytest.fixture(scope="session")
def smollm2_exact(shared_store: ModelStore) -> Checkpoint:
    """The same in float32: what is greedy is the same whatever the order of sums."""
    return publish(str(smollm2_gguf()), "smollm2-float32", shared_store, dtype="float32")


@pytest.fixture(scope="session")
def frontend(shared_cluster: RealCluster) -> str:
    """The URL of a front end over the shared cluster."""
    return shared_cluster.start_frontend()
