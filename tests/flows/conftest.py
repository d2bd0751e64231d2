"""Prefect, a scheduler, nodes and the flow service, once for all files here; the front end is a double that has moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firsttoken import ready
from firsttoken.home import FLOWS_READY_FILE
from firsttoken.operator_key import operator_key
from firsttoken.settings import Settings
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.flows.front_end_double import FrontEndDouble, front_end_double
from tests.flows.real_service import (
    AUTH,
    EVERY_S,
    MODEL,
    NODES,
    Components,
    PrefectApi,
    held,
    own_settings,
    started,
    within,
)
from tests.tiny import make_tiny


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A prewarm of one model every few seconds, small nodes, and a Prefect that asks for a password."""
    return own_settings(
        tmp_path_factory.mktemp("home"),
        FIRSTTOKEN_NODE__DRAM_BYTES="64MiB",
        FIRSTTOKEN_NODE__POOL_SIZE="0",
        FIRSTTOKEN_PREWARM__EVERY_S=str(EVERY_S),
        FIRSTTOKEN_PREWARM__MODELS=MODEL,
        FIRSTTOKEN_REAP__EVERY_S="0",
        FIRSTTOKEN_BACKTEST__CRON="",
        FIRSTTOKEN_PREFECT__AUTH=":".join(AUTH),
    )


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as transformers saves it."""
    return make_tiny("llama", tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def store(settings: Settings) -> ModelStore:
    """The store of the components."""
    return ModelStore(ObjectStore(settings.store.url))


@pytest.fixture(scope="session")
def checkpoint(source: Path, store: ModelStore) -> Checkpoint:
    """The model that is prewarmed, published."""
    return publish(str(source), MODEL, store)


@pytest.fixture(scope="session")
def front_end(settings: Settings) -> Iterator[FrontEndDouble]:
    """What the flow service takes for the front end."""
    with front_end_double(settings.frontend.port, operator_key(settings)) as double:
        yield double


@pytest.fixture(scope="session")
def flow_service(settings: Settings, checkpoint: Checkpoint, front_end: FrontEndDouble) -> Iterator[Components]:
    """The flow service and what it needs. The nodes hold nothing when it starts."""
    with started(settings) as components:
        components.start("prefect")
        components.start("scheduler")
        for node in NODES:
            components.start("node", "--name", node)
        assert within(60, held(settings, NODES)) == set()
        components.start("flows")
        within(90, ready.file_there(settings.run_dir / FLOWS_READY_FILE))
        yield components


@pytest.fixture
def prefect(settings: Settings, flow_service: Components) -> PrefectApi:
    """The API of the Prefect server."""
    return PrefectApi(settings.prefect.api_url, AUTH)
