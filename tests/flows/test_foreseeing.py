"""What a plan of prewarming is made of, by a front end's history, nodes in memory and a store; and what is carried out."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.fake import FakeCluster
from flows.errors import NothingKnown, Refused, Unintelligible, UnknownModel
from flows.foreseeing.carry import retain, stage
from flows.foreseeing.gather import Sources, gather
from flows.foreseeing.look import look
from flows.foreseeing.make import Wish, make
from flows.foreseeing.minutes import Came, read_minutes
from flows.front_end import FrontEnd
from schedules.facts import ModelKey
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.past import NEVER_S
from schedules.foresight.plan import Kept, LeftOut, Plan, Staging
from schedules.foresight.retention import Retention
from serving.history.history import History
from serving.history.tables import Arrival
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from tests.schedules.worlds import world_node
from tests.serving.operated import KEY, MODEL, Operated, operated
from tests.serving.routed import until
from tests.told import budgets_of, objectives_of

HOUR_S, DAY_S = 3600.0, 86_400.0
WANTED = objectives_of(kv_tokens=1024)


@dataclass(frozen=True)
class There:
    """A front end with a history, and the ways to all that is asked."""

    front_end: FrontEnd
    operated: Operated
    sources: Sources


@asynccontextmanager
async def there(folder: Path, store: ModelStore, arrivals: Sequence[Arrival] = (), **more: Any) -> AsyncIterator[There]:
    """To which so much has come."""
    url = f"sqlite:///{folder}/history.db"
    writer = History(url, keep_days=1e5)
    writer.start()
    for arrival in arrivals:
        writer.add_arrival(arrival)
    await writer.close()
    history = History(url, keep_days=1e5)
    try:
        async with operated(history=history, **more) as front_end:
            reached = FrontEnd(f"http://127.0.0.1:{front_end.port}", KEY)
            sources = Sources(reached, front_end.now.cluster, store, lambda _model: WANTED)
            yield There(reached, front_end, sources)
    finally:
        await history.close()


def calls(model: str, every_s: float, until_s: float, times: int) -> list[Arrival]:
    """The last of them as long before that time as they are apart."""
    return [Arrival(model, until_s - every_s * (times - n), 3, 16, 7, "served", 0.5, 1.0, n == 0) for n in range(times)]


def wish(*models: str) -> Wish:
    """Whoever was called of late will be again; nothing is kept on accelerators, so that dram is filled."""
    return Wish(FORECASTERS["keep-alive"], budgets_of(device_share=0.0), DAY_S, 900.0, 300.0, models)


# ---- the past


async def test_what_came_is_the_past_as_forecasts_look_at_it(tmp_path: Path, store: ModelStore) -> None:
    now_s = 1_700_000_070.0
    arrivals = [*calls("a", 60.0, now_s, 3), *calls("b", 20.0, now_s, 1), *calls("b", HOUR_S * 9, now_s, 1)]
    async with there(tmp_path, store, arrivals) as now:
        past = await now.front_end.past(now_s - 200.0, now_s)
        assert (past.models, past.begin_s, past.until_s) == (("a", "b"), 1_699_999_860.0, now_s)
        assert past.counts.tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]
        assert past.last_s.tolist() == [now_s - 60.0, now_s - 20.0]
        some = await now.front_end.past(now_s - 200.0, now_s, ["nobody", "b"])
        assert (some.models, some.last_s.tolist()) == (("nobody", "b"), [NEVER_S, now_s - 20.0])
        assert some.counts.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
        many = [f"m-{number}" for number in range(300)]
        of_many = await now.front_end.heard(now_s - 200.0, now_s, [*many, "a"])
        assert of_many.past.models == (*many, "a")
        assert of_many.past.counts.sum() == 3
        assert of_many.came == {"a": Came(3, cold=1, answered=3, ttft_s=0.5, ttft_most_s=0.5)}


TOLD = {
    "begin": 60, "until": 130.0,
    "models": {"a": {"minutes": [[1, 2]], "last": 125.0, **vars(Came(2))}},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"begin": 61}, {"until": 59}, {"begin": "x"}, {"models": None}, {"models": {"a": {}}},
        {"models": {"a": {**TOLD["models"]["a"], "minutes": [[2, 1]]}}},  # type: ignore[index]
        {"models": {"a": {**TOLD["models"]["a"], "minutes": [[-1, 1]]}}},  # type: ignore[index]
        {"models": {"a": {**TOLD["models"]["a"], "minutes": [[0, -1]]}}},  # type: ignore[index]
        {"models": {"a": {**TOLD["models"]["a"], "minutes": [[0]]}}},  # type: ignore[index]
    ],
)  # fmt: skip
def test_what_are_no_minutes_is_not_understood(change: dict[str, Any]) -> None:
    assert read_minutes(TOLD).past.counts.tolist() == [[0, 2]]
    with pytest.raises(Unintelligible, match="what are no minutes"):
        read_minutes(TOLD | change)


async def test_nothing_that_ever_came_is_nothing_to_look_ahead_by(tmp_path: Path, store: ModelStore) -> None:
    async with there(tmp_path, store) as now:
        with pytest.raises(NothingKnown, match="no request came in the last 1 d"):
            await look(now.front_end, FORECASTERS["tsb"], DAY_S, 900.0, time.time())
        with pytest.raises(NothingKnown, match="no request came for any model"):
            await make(now.sources, wish(), time.time())


# ---- what there is


async def test_a_plan_is_told_and_one_of_before_is_refused(tmp_path: Path, store: ModelStore) -> None:
    """What nodes keep is left out: there may be much of it, and it is not the front end's."""
    now_s = time.time()
    kept = (Kept(MODEL.facts.key, 1, 1.0, "it will be called"),)
    plan = Plan(now_s, now_s + 900.0, (), {"a": Retention({"x": 1.0})}, {}, kept, {})
    async with there(tmp_path, store) as now:
        answer = await now.front_end.planned(plan)
        assert answer["kept"] == [{"model": "m", "replicas": 1}]
        assert now.operated.now.router.plans.plan == replace(plan, dram={})
        with pytest.raises(Refused, match="before the one that is in force"):
            await now.front_end.planned(replace(plan, made_s=now_s - 1.0))
        await until(lambda: now.operated.now.states() == ["serving"], 30.0)
        standing = await now.front_end.standing()
        assert standing.nodes == 3
        ((key, places),) = standing.running.items()
        assert (key, len(places)) == (MODEL.facts.key, 1)


async def test_what_can_be_planned_for_is_gathered_and_what_cannot_is_left_out(
    tmp_path: Path, store: ModelStore, checkpoint: Checkpoint
) -> None:
    now_s = time.time()
    arrivals = [*calls(checkpoint.name, 60.0, now_s, 5), *calls("gone", 60.0, now_s, 2)]
    async with there(tmp_path, store, arrivals) as now:
        found = await gather(now.sources, now_s - DAY_S, now_s)
        assert [(each.model.key, each.objectives) for each in found.models] == [
            (ModelKey(checkpoint.name, checkpoint.digest), WANTED)
        ]
        assert found.heard.past.models == (checkpoint.name,)
        assert found.left_out == (LeftOut("gone", "it is not published"),)
        assert [node.name for node in found.view.nodes] == ["a", "b", "c"]
        with pytest.raises(UnknownModel, match="gone cannot be planned for: it is not published"):
            await gather(now.sources, now_s - DAY_S, now_s, ["gone"])
        never = await gather(now.sources, now_s - DAY_S, now_s - DAY_S + 60.0, [checkpoint.name])
        assert never.heard.past.counts.sum() == 0


# ---- from the past to the nodes


async def test_what_is_called_again_and_again_is_planned_and_brought(
    tmp_path: Path, store: ModelStore, checkpoint: Checkpoint
) -> None:
    now_s = time.time()
    arrivals = [*calls(checkpoint.name, 300.0, now_s, 100), *calls("gone", 60.0, now_s, 2)]
    slow = [world_node(name, nic=2e5, formed=0.1) for name in "abc"]  # so that it is worth while
    async with there(tmp_path, store, arrivals, nodes=slow) as now:
        made = await make(now.sources, wish(), now_s)
        assert made.forecast.probability[0] > 0.9
        assert made.plan.stagings
        assert LeftOut("gone", "it is not published") in made.plan.left_out
        assert made.came[checkpoint.name].arrived == 100
        cluster = now.operated.now.cluster
        assert await retain(cluster, made.plan, sorted(made.plan.dram)) == []
        assert cluster.retained.keys() == {*made.plan.dram, *made.plan.ssd}
        why = "node 'z' is not connected"
        assert await retain(cluster, made.plan, ["a", "z"]) == [f"z goes on dropping what it used longest ago: {why}"]
        reported: list[tuple[int, str]] = []
        carried = await stage(cluster, store, made.plan.stagings, 900.0, lambda *told: reported.append(told))
        assert [(each.staging, each.why) for each in carried] == [(each, "") for each in made.plan.stagings]
        assert sum(each.fetched_bytes for each in carried) > 0
        assert reported[-1][0] == sum(each.size_bytes for each in made.plan.stagings)
        digests = {unit.name: unit.digest for unit in checkpoint.units}
        for each in made.plan.stagings:
            node = cluster.view().node(each.node)
            assert node is not None
            assert {digests[name] for name in each.units} <= node.units.keys()


def staged(checkpoint: Checkpoint, node: str = "a", digest: str = "", name: str = "") -> Staging:
    key = ModelKey(name or checkpoint.name, digest or checkpoint.digest)
    units, size_bytes = tuple(unit.name for unit in checkpoint.units), checkpoint.size_bytes
    return Staging(node, key, units, "dram", size_bytes, "remote", 60.0, 1.0, "it will be called")


@pytest.mark.parametrize(
    ("change", "within_s", "why"),
    [
        ({"name": "nobody"}, 60.0, "no model 'nobody' in "),
        ({"digest": "another"}, 60.0, "another version of .* was published meanwhile"),
        ({"node": "z"}, 60.0, "node 'z' is not connected"),
        ({}, 0.0, "the plan was over before its turn came"),
    ],
)
async def test_what_cannot_be_brought_says_why_and_keeps_nothing_else_from_it(
    tmp_path: Path, store: ModelStore, checkpoint: Checkpoint, change: dict[str, Any], within_s: float, why: str
) -> None:
    both = [staged(checkpoint, **change), staged(checkpoint, "b")]
    async with there(tmp_path, store) as now:
        bad, good = await stage(now.sources.cluster, store, both, within_s, lambda *_told: None)
    assert re.search(why, bad.why)
    assert (good.staging, good.why == "") == (both[1], within_s > 0.0)


async def test_who_is_interrupted_ends_what_is_under_way_and_begins_no_more(
    store: ModelStore, checkpoint: Checkpoint
) -> None:
    """Each node has one staging under way, and one whose turn has not come."""
    begun, ended, both = list[str](), list[str](), asyncio.Barrier(3)

    class Slow(FakeCluster):
        async def bring(self, node: str, *_told: Any, **_more: Any) -> Any:
            begun.append(node)
            await both.wait()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(node)

    wanted = [staged(checkpoint, node) for node in ("a", "b", "a", "b")]
    async with Slow([world_node("a"), world_node("b")]) as cluster:
        staging = asyncio.create_task(stage(cluster, store, wanted, 60.0, lambda *_told: None))
        await asyncio.wait_for(both.wait(), 20.0)
        await asyncio.sleep(0)
        staging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await staging
        assert (sorted(begun), sorted(ended)) == (["a", "b"], ["a", "b"])
