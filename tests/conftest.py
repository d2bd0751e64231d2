"""What several packages' tests share: a cluster of four real nodes over one store, started once."""

import re
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
from tests import device as chosen
from tests.real_cluster import RealCluster, run_cluster
from tests.smollm2 import smollm2_gguf
from tests.workers import ByFile, arrange, check

_OF_A_GPU = re.compile(r"mark\.gpu|\bdevice: torch\.device")
LONGEST_ID = 20
torch.set_num_threads(1)  # of two that share a core with others, each waits for the other at every layer
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="what stages compute on: cpu, or cuda for tests marked gpu")


def pytest_configure(config: pytest.Config) -> None:
    """Where there is no GPU its tests are none, and that is no failure."""
    wanted = torch.device(config.getoption("--device"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("there is no GPU, so its tests are not run", returncode=0)
    chosen.DEVICE = wanted


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu` others' files are not even imported: they may need what a machine with a GPU does not have."""
    if config.option.markexpr != "gpu" or not (collection_path.is_dir() or collection_path.suffix == ".py"):
        return None
    files = [collection_path] if collection_path.is_file() else collection_path.rglob("test_*.py")
    return None if any(_OF_A_GPU.search(file.read_text()) for file in files) else True


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Workers must collect tests of the same names; bytes may be others in each second, as those that gzip packs are."""
    return argname if isinstance(val, bytes) and len(val) > LONGEST_ID else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check(items)
    items[:] = [items[index] for index in arrange(item.nodeid for item in items)]
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") and not _OF_A_GPU.search(item.path.read_text()):
            raise pytest.UsageError(f"{item.nodeid}: `-m gpu` would not look at its file, see {__name__}")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """What stages compute on. Who takes it is one of the GPU's tests."""
    return chosen.DEVICE


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """The store that the shared cluster reads from; tests publish under names of their own."""
    return ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))


@pytest.fixture(scope="session")
def shared_cluster(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Four nodes that no test may harm."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with run_cluster(folder, shared_store.objects.url, nodes=4, device=chosen.DEVICE.type) as cluster:
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
