"""What is known of this home's cluster for a world to be fitted to it: its history, its nodes and its models."""

import asyncio
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import make_url

from cluster.model_facts import facts_of
from firsttoken.components import objectives_of
from firsttoken.errors import FirsttokenError
from firsttoken.reached import cluster_of
from firsttoken.settings import Settings
from schedules.facts import Model, Node
from schedules.fitting.replaying import Ground
from schedules.fitting.seen import Happened
from schedules.placing.policies import POLICIES
from schedules.simulation.scenario import Offered
from schedules.systems.system import OURS
from schedules.world.habits import Habits
from serving.history.happened import happened
from serving.history.history import History
from storage_tiers.errors import Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

_HERE = {"127.0.0.1", "::1", "localhost"}


async def read_happened(settings: Settings, since_s: float, until_s: float) -> Happened:
    """What came in that time, in unix seconds. HistoryError, or FirsttokenError where no history was ever kept."""
    _check_there(settings.history.url)
    history = History(settings.history.url, settings.history.keep_days)
    try:
        return await happened(history, since_s, until_s)
    finally:
        await history.close()


def _check_there(history_url: str) -> None:
    """Whoever opens a file that is not there makes one."""
    url = make_url(history_url)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise FirsttokenError(f"there is no history at {history_url}: a front end that serves makes one")


async def read_ground(settings: Settings, models: Collection[str]) -> Ground:
    """The cluster that runs, and those of the models that are published. NotUp or StorageError if there is none."""
    facts = await asyncio.to_thread(_published, settings, sorted(models))
    offered = {
        model.name: Offered(model, objectives_of(settings, model.name if model.name in settings.models else None))
        for model in facts
    }
    frontend = settings.frontend
    system = replace(OURS, policy=lambda _seed: POLICIES[frontend.policy], consolidate=frontend.consolidate)
    nodes = await _nodes(settings)
    return Ground(nodes, offered, system, Habits(cores=_cores(nodes)), frontend.start_timeout_s)


async def _nodes(settings: Settings) -> tuple[Node, ...]:
    async with cluster_of(settings) as client:
        return (await client.nodes()).nodes


def _cores(nodes: Sequence[Node]) -> float | None:
    """What the nodes share, if all of them compute on the CPUs of this machine; of others' nobody knows."""
    ours = all(not node.gpu and node.host in _HERE for node in nodes)
    return os.cpu_count() if ours else None


def _published(settings: Settings, names: Collection[str]) -> list[Model]:
    store, found = ModelStore(ObjectStore(settings.store.url, settings.store.options, settings.store.reader)), []
    for name in names:
        try:
            found.append(facts_of(store.open(name)))
        except Missing:
            continue  # it was published once: what was asked of it cannot be played
    return found
