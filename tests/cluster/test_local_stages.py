"""The stages of a node whose processes are played: nothing is left of one, whenever its end comes."""

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.errors import Refused, StageFailed
from cluster.node import local_stages
from cluster.node.device_memory import DeviceMemory
from cluster.node.exchange import UnitExchange
from cluster.node.local_stages import LocalStages
from cluster.node.rate_book import RateBook
from cluster.tasks import Tasks
from cluster.wire.orders import AwaitUnits, FormStage
from cluster.wire.phases import ASSIGN, FIRST_STEP, Phase
from cluster.wire.stages import PhaseDone
from schedules.rates import formed
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.tiers.stack import Priority
from tests.cluster.played_pool import PlayedPool, until
from tests.storage_tiers.handmade import store_units
from tests.storage_tiers.stack_node import Gate, Node
from tests.told import node_config

DEADLINE_S = 20.0
MOMENTS = ("nothing", "forked", "ready", "taken", "formed")
"""How far a stage's process comes before the stage's end does."""
RESERVED_BYTES = 1000


class Played:
    """A node's stages over a store whose reads can be held back."""

    def __init__(self, folder: Path) -> None:
        store = ModelStore(ObjectStore(str(folder / "store")))
        self.units: tuple[UnitIndex, ...] = tuple(unit for unit, _ in store_units(store, 2))
        self.gate = Gate()
        self.node = Node(store, folder / "ssd", self.gate)
        self.pool, self.tasks = PlayedPool(), Tasks()
        self.lost: list[tuple[str, str]] = []
        self.changes = 0
        config = node_config(
            store_url=store.objects.url, ssd_dir=str(folder / "ssd"), device_bytes=RESERVED_BYTES, use_peers=False
        )
        peers = UnitExchange(self.node.dram, self.node.ssd, "127.0.0.1", taking_part=False)
        self.stages = LocalStages(
            config, self.node.stack, peers, RateBook(folder), DeviceMemory("cpu", RESERVED_BYTES, 1), self.pool, self.tasks,
            self._change,
            lambda group, cause: self.lost.append((group, cause)),
        )  # fmt: skip

    def _change(self) -> None:
        self.changes += 1

    def order(self, group: str = "g", timeout_s: float = DEADLINE_S) -> FormStage:
        """One that takes all memory there is."""
        return FormStage(
            group=group, model="model", rank=0, config_json='{"model_type": "llama"}', dtype="float32", bounds=(0, 1),
            units=self.units, rendezvous_host="127.0.0.1", rendezvous_port=1, rendezvous_secret="s",
            reserve_bytes=RESERVED_BYTES, kv_tokens=1, timeout_s=timeout_s, lease_s=DEADLINE_S,
        )  # fmt: skip

    async def come_to(self, moment: str) -> "asyncio.Task[object]":
        """A stage that is being formed has come so far."""
        self.pool.goes = moment
        if moment != "nothing":
            self.pool.may_fork.set()
        forming: asyncio.Task[object] = asyncio.ensure_future(self.stages.form(self.order()))
        await asyncio.wait_for(self.pool.asked.wait(), DEADLINE_S)
        if moment not in ("nothing", "forked"):
            await until(lambda: bool(self.pool.made and self.pool.made[0].heard))
        if moment == "formed":
            await asyncio.wait({forming}, timeout=DEADLINE_S)
            assert forming.done()
        return forming

    async def nothing_is_left(self) -> None:
        """No process, no memory, no load, no task; also when what was waited for comes after all."""
        assert (self.stages.groups, self.stages.reserved_bytes) == ((), 0)
        self.pool.may_fork.set()
        await until(lambda: self.pool.alive == 0)
        assert self.pool.idle == 0
        await until(lambda: not self.tasks._running)
        self.gate.open()
        await until(lambda: not self.node.stack.loading)
        assert all(self.node.dram.pins(unit.digest) == 0 for unit in self.units)


@pytest_asyncio.fixture
async def played(tmp_path: Path) -> AsyncIterator[Played]:
    made = Played(tmp_path)
    yield made
    made.gate.open()
    await made.stages.close()
    await made.tasks.close()
    await made.pool.close()
    await asyncio.to_thread(made.node.stack.close)
    gc.collect()


@pytest.mark.parametrize("behind", [False, True])
async def test_it_is_told_at_once_that_a_start_waits_for_units_and_that_it_does_no_more(
    played: Played, behind: bool
) -> None:
    """What is staged on other nodes stands still meanwhile; for one that comes behind as soon as somebody waits for it."""
    forming = asyncio.ensure_future(played.stages.form(replace(played.order(), behind=behind)))
    await until(played.gate.reached.is_set)
    assert played.changes == 1
    assert played.node.stack.fetching is not behind
    if behind:
        played.stages.hurry("g")
        assert played.changes == 2
        assert played.node.stack.fetching
    before = played.changes
    played.gate.open()
    await until(lambda: played.changes > before)
    assert not played.node.stack.fetching
    await played.stages.dissolve("g")
    await asyncio.gather(forming, return_exceptions=True)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_stage_that_is_dissolved_while_it_is_formed_leaves_nothing(played: Played, moment: str) -> None:
    """While the pool was empty its process came later, took the order of a stage that was no more, and whoever had given
    the order heard of the end only then."""
    forming = await played.come_to(moment)
    await played.stages.dissolve("g")
    if moment == "formed":
        await forming
    else:
        with pytest.raises(StageFailed, match="dissolved"):
            await asyncio.wait_for(forming, DEADLINE_S)
    await played.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS[:-1])
async def test_an_order_that_is_cancelled_leaves_nothing(played: Played, moment: str) -> None:
    forming = await played.come_to(moment)
    forming.cancel()
    await asyncio.wait({forming}, timeout=DEADLINE_S)
    assert forming.cancelled()
    await played.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS[:-1])
async def test_an_order_that_takes_too_long_leaves_nothing(played: Played, moment: str) -> None:
    played.pool.goes = moment
    if moment != "nothing":
        played.pool.may_fork.set()
    with pytest.raises(StageFailed, match="not formed within"):
        await played.stages.form(played.order(timeout_s=0.2))
    await played.nothing_is_left()


async def test_memory_is_given_back_also_if_whoever_ends_a_stage_is_cancelled(played: Played) -> None:
    """It stayed reserved until the node was started again."""
    forming = await played.come_to("taken")
    ending = asyncio.ensure_future(played.stages.dissolve("g"))
    await asyncio.sleep(0)
    ending.cancel()
    forming.cancel()
    await asyncio.wait({ending, forming}, timeout=DEADLINE_S)
    await until(lambda: played.stages.groups == ())
    await played.nothing_is_left()


async def test_a_unit_that_cannot_be_had_ends_a_stage_that_waits_for_a_process(played: Played) -> None:
    """The cause was told when a process had come, some time later."""
    played.gate.open()
    played.node.remote.before = _missing
    with pytest.raises(StageFailed, match="is not there"):
        await asyncio.wait_for(played.stages.form(played.order()), DEADLINE_S)
    await until(lambda: played.stages.groups == ())
    await played.nothing_is_left()


def _missing(unit: UnitIndex, _chunk: int) -> None:
    raise Missing(f"{unit.name} is not there")


async def test_whoever_takes_the_place_of_a_stage_is_not_ended_with_it(played: Played) -> None:
    first = await played.come_to("taken")
    ending = asyncio.ensure_future(played.stages.dissolve("g"))
    await asyncio.wait({first, ending}, timeout=DEADLINE_S)
    played.pool.goes = "formed"
    await played.stages.form(played.order("h"))
    await asyncio.sleep(0.05)
    assert played.stages.groups == ("h",)
    await played.stages.dissolve("h")
    await played.nothing_is_left()


async def test_an_order_that_comes_after_its_groups_end_is_refused(played: Played) -> None:
    """They come over different connections: the stage was formed, and kept its memory until its lease ended."""
    await played.stages.dissolve("g")
    with pytest.raises(Refused, match="dissolve"):
        await played.stages.form(played.order())
    await played.nothing_is_left()


async def test_what_does_not_fit_beside_the_processes_that_wait_is_refused(played: Played) -> None:
    """A node refused by a fixed share of its GPU, whatever its processes took of it."""
    played.stages._memory = gpu = DeviceMemory("cuda", RESERVED_BYTES + (4 << 20), 2)
    with pytest.raises(Refused, match=f"0 bytes free, {RESERVED_BYTES:,} asked"):
        await played.stages.form(played.order())
    gpu.hear(2 << 20)
    await played.come_to("formed")
    with pytest.raises(Refused, match="0 bytes free"):
        await played.stages.form(played.order("h"))
    await played.stages.dissolve("g")
    await played.nothing_is_left()


@pytest.mark.parametrize("limit", [{"KEPT_DISSOLVED": 2}, {"DISSOLVED_KEPT_S": 0.0}])
async def test_only_so_many_dissolved_groups_are_remembered_for_so_long(
    played: Played, monkeypatch: pytest.MonkeyPatch, limit: dict[str, float]
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(local_stages, name, value)
    for group in ("g", "h", "i"):
        await played.stages.dissolve(group)
    played.pool.may_fork.set()
    await played.stages.form(played.order())
    assert len(played.stages._dissolved) <= 2
    await played.stages.dissolve("g")
    await played.nothing_is_left()


# ---- one that comes behind


async def _behind(played: Played) -> "asyncio.Task[object]":
    """Half of the memory is for a stage that comes behind, whose units are on their way."""
    played.pool.may_fork.set()
    order = replace(played.order(), reserve_bytes=RESERVED_BYTES // 2, behind=True)
    forming: asyncio.Task[object] = asyncio.ensure_future(played.stages.form(order))
    await asyncio.wait({forming}, timeout=DEADLINE_S)
    forming.result()
    return asyncio.ensure_future(played.stages.await_units(AwaitUnits("g", DEADLINE_S)))


def _priorities(played: Played) -> list[int | None]:
    transfers = [played.node.stack.transfer(unit) for unit in played.units]
    return [one.rank.priority if one is not None and one.rank is not None else None for one in transfers]


def _assigned(unit: UnitIndex) -> PhaseDone:
    return PhaseDone(Phase(f"{ASSIGN}{unit.name}", "stage 0", 0.0, 1.0))


async def test_units_of_a_stage_that_comes_behind_make_way_until_a_start_wants_them(played: Played) -> None:
    whole = await _behind(played)
    assert _priorities(played) == [Priority.MOVE] * 2
    order = replace(played.order("h"), reserve_bytes=RESERVED_BYTES // 2, units=played.units[1:])
    await played.stages.form(order)
    assert _priorities(played) == [Priority.MOVE, Priority.COLD_START]
    assert not whole.done()
    await asyncio.gather(played.stages.dissolve("g"), played.stages.dissolve("h"))
    await asyncio.wait({whole}, timeout=DEADLINE_S)
    await played.nothing_is_left()


async def test_a_stage_that_comes_behind_has_its_process_made_when_a_start_has_computed(played: Played) -> None:
    """It would have its cores until then."""
    played.pool.may_fork.set()
    half = replace(played.order("h"), reserve_bytes=RESERVED_BYTES // 2)
    await played.stages.form(half)
    behind = asyncio.ensure_future(played.stages.form(replace(half, group="g", behind=True)))
    await asyncio.sleep(0.1)
    assert len(played.pool.made) == 1
    played.stages._stages["h"].hear(PhaseDone(Phase(FIRST_STEP, "stage 0", 0.0, 1.0)))
    await asyncio.wait_for(behind, DEADLINE_S)
    assert len(played.pool.made) == 2
    await asyncio.gather(played.stages.dissolve("g"), played.stages.dissolve("h"))
    await played.nothing_is_left()


async def test_what_it_takes_to_form_one_behind_tells_nothing_of_how_long_starts_take(played: Played) -> None:
    await _behind(played)
    assert formed(1) not in played.stages._rates
    await played.stages.form(replace(played.order("h"), reserve_bytes=RESERVED_BYTES // 2))
    assert formed(1) in played.stages._rates
    await asyncio.gather(played.stages.dissolve("g"), played.stages.dissolve("h"))


async def test_a_stage_has_all_its_units_when_its_process_has_taken_the_last_into_use(played: Played) -> None:
    whole = await _behind(played)
    stage = played.stages._stages["g"]
    stage.hear(_assigned(played.units[0]))
    stage.hear(_assigned(played.units[0]))
    await asyncio.sleep(0)
    assert not whole.done()
    stage.hear(_assigned(played.units[1]))
    await asyncio.wait_for(whole, DEADLINE_S)
    await played.stages.await_units(AwaitUnits("g", 0.0))
    await played.stages.dissolve("g")
    await played.nothing_is_left()


async def test_whoever_waits_for_a_stages_units_hears_of_its_end(played: Played) -> None:
    whole = await _behind(played)
    await asyncio.sleep(0)
    await played.stages.dissolve("g")
    with pytest.raises(StageFailed, match="dissolved"):
        await asyncio.wait_for(whole, DEADLINE_S)
    with pytest.raises(Refused, match="no stage"):
        await played.stages.await_units(AwaitUnits("g", DEADLINE_S))
    await played.nothing_is_left()


async def test_a_stages_units_are_not_waited_for_for_ever(played: Played) -> None:
    whole = await _behind(played)
    with pytest.raises(StageFailed, match="did not all come within"):
        await played.stages.await_units(AwaitUnits("g", 0.01))
    assert not whole.done()
    await played.stages.dissolve("g")
    await asyncio.wait({whole}, timeout=DEADLINE_S)
    await played.nothing_is_left()


async def test_a_node_that_drains_takes_no_more_stages_and_tells_when_the_last_is_gone(played: Played) -> None:
    await played.come_to("formed")
    played.stages.draining = True
    gone = asyncio.ensure_future(played.stages.gone())
    with pytest.raises(Refused, match="about to end"):
        await played.stages.form(played.order("h"))
    assert not gone.done()
    await played.stages.dissolve("g")
    await asyncio.wait_for(gone, DEADLINE_S)
    await played.nothing_is_left()
