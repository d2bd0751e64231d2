"""What a plan of prewarming is made on: the past by the front end, units by the nodes, models by the store."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster.contract import Cluster
from cluster.errors import ClusterError
from cluster.model_facts import facts_of
from flows.errors import UnknownModel
from flows.foreseeing.minutes import Heard
from flows.front_end import FrontEnd, Standing
from schedules.facts import Model, ModelKey, View
from schedules.foresight.plan import LeftOut
from schedules.foresight.planner import Wanted
from schedules.objectives import Objectives
from storage_tiers.errors import Corrupt, Missing
from storage_tiers.model_store import ModelStore

ObjectivesOf = Callable[[str], Objectives]
NODES_WITHIN_S = 30.0
ALL_WITHIN_S = 5.0
READERS = 8


@dataclass(frozen=True)
class Sources:
    """Whom to ask. The cluster has been entered."""

    front_end: FrontEnd
    cluster: Cluster
    store: ModelStore
    objectives_of: ObjectivesOf


@dataclass(frozen=True)
class Gathered:
    """See the module. `heard` is of those `models` that can be planned for, in their order; `left_out` are others."""

    heard: Heard
    view: View
    models: tuple[Wanted, ...]
    running: Mapping[ModelKey, tuple[tuple[str, ...], ...]]
    left_out: tuple[LeftOut, ...]


async def gather(sources: Sources, since_s: float, until_s: float, models: Sequence[str] = ()) -> Gathered:
    """Of `models`, or of all that were asked for in that time (unix seconds) or run now.

    FrontEndAway, ClusterError or StorageError if somebody does not answer; UnknownModel if one of `models` is not published.
    """
    heard, standing = await asyncio.gather(
        sources.front_end.heard(since_s, until_s, models), sources.front_end.standing()
    )
    names = tuple(models) or tuple(sorted({*heard.past.models, *(key.name for key in standing.running)}))
    view, (facts, left_out) = await asyncio.gather(
        _view(sources.cluster, standing), asyncio.to_thread(_published, sources.store, names)
    )
    if models and left_out:
        raise UnknownModel(f"{left_out[0].model} cannot be planned for: {left_out[0].reason}")
    wanted = tuple(Wanted(model, sources.objectives_of(model.name)) for model in facts)
    keys = {model.key for model in facts}
    running = {key: where for key, where in standing.running.items() if key in keys}
    return Gathered(heard.only([model.name for model in facts]), view, wanted, running, left_out)


async def _view(cluster: Cluster, standing: Standing) -> View:
    """As all nodes that the front end knows have told it, as far as they do so soon; NodeLost if there is none at all."""
    view = await cluster.nodes(1, NODES_WITHIN_S)
    if len(view.nodes) < standing.nodes:
        try:
            return await cluster.nodes(standing.nodes, ALL_WITHIN_S)
        except ClusterError:  # some may just have gone
            return cluster.view()
    return view


def _published(store: ModelStore, names: Sequence[str]) -> tuple[list[Model], tuple[LeftOut, ...]]:
    """The models, in order, and those that are none any more."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="gather") as readers:
        found = list(readers.map(lambda name: _facts(store, name), names))
    left_out = tuple([each for each in found if isinstance(each, LeftOut)])
    return [each for each in found if isinstance(each, Model)], left_out


def _facts(store: ModelStore, name: str) -> Model | LeftOut:
    try:
        return facts_of(store.open(name))
    except Missing:
        return LeftOut(name, "it is not published")
    except Corrupt as error:
        return LeftOut(name, f"it is damaged: {error}")
