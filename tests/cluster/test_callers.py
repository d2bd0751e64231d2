"""Orders whose callers leave before they have an answer: over real connections of Dask, to an agent without its worker."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from distributed.comm.core import Comm, connect
from distributed.core import Server

from cluster.node import agent as agent_module
from cluster.node.agent import NodeAgent
from cluster.node.callers import CallerGone, work_for
from cluster.node.config import NodeConfig
from cluster.wire.orders import HANDLER, BringUnits, FormStage, Probe
from cluster.wire.reports import Done, NotDone, StageFormed, UnitsBrought
from cluster.wire.vocabulary import from_wire, to_wire
from schedules.rates import NIC, REACH
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.remote import ModelStore, ObjectStore
from storage_tiers.tiers.remote_tier import RemoteTier
from tests.cluster.played_pool import PlayedPool, until
from tests.storage_tiers.handmade import store_units
from tests.storage_tiers.stack_node import Gate, Watched

DEADLINE_S = 20.0


class _Line:
    """A caller's connection."""

    def __init__(self) -> None:
        self.gone = False

    def closed(self) -> bool:
        return self.gone


async def test_work_is_done_for_a_caller_who_stays() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await work_for(_Line(), work()) == 7


async def test_what_fails_fails_for_the_caller() -> None:
    async def work() -> int:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        await work_for(_Line(), work())


@pytest.mark.parametrize("leaves", ["caller", "whoever does it"])
async def test_work_has_ended_when_nobody_wants_it(leaves: str) -> None:
    line, begun, ended = _Line(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(10 * DEADLINE_S)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    doing = asyncio.ensure_future(work_for(line, work()))
    await begun.wait()
    if leaves == "caller":
        line.gone = True
    else:
        doing.cancel()
    with pytest.raises(CallerGone if leaves == "caller" else asyncio.CancelledError):
        await asyncio.wait_for(doing, DEADLINE_S)
    assert ended.is_set()


async def test_a_caller_who_leaves_as_it_is_done_is_gone() -> None:
    line = _Line()

    async def work() -> None:
        line.gone = True

    with pytest.raises(CallerGone):
        await work_for(line, work())


class Called:
    """An agent that takes orders over connections, its store's reads held back, its processes played."""

    def __init__(self, agent: NodeAgent, units: tuple[UnitIndex, ...], gate: Gate, pool: PlayedPool) -> None:
        self.agent, self.units, self.gate, self.pool = agent, units, gate, pool
        self.stages, self.tiers = agent._stages, agent._tiers
        self.server = Server({HANDLER: agent._on_order})

    @asynccontextmanager
    async def given(self, order: object) -> AsyncIterator[Comm]:
        """A caller who has given an order, and leaves at the end of the block."""
        comm = await connect(self.server.address)
        try:
            await comm.write({"op": HANDLER, "order": to_wire(order), "reply": True})
            yield comm
        finally:
            await comm.close()

    async def ask(self, order: object) -> Any:
        """The answer to an order."""
        async with self.given(order) as comm:
            return from_wire(await asyncio.wait_for(comm.read(), DEADLINE_S))

    def form(self) -> FormStage:
        return FormStage(
            group="g", model="model", rank=0, config_json='{"model_type": "llama"}', dtype="float32", bounds=(0, 1),
            units=self.units, rendezvous_host="127.0.0.1", rendezvous_port=1, rendezvous_secret="s",
            reserve_bytes=1000, kv_tokens=1, timeout_s=DEADLINE_S, lease_s=10 * DEADLINE_S,
        )  # fmt: skip


@pytest_asyncio.fixture
async def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Called]:
    store, gate = ModelStore(ObjectStore(str(tmp_path / "store"))), Gate()
    units = tuple(unit for unit, _ in store_units(store, 3))
    monkeypatch.setattr(agent_module, "StagePool", PlayedPool)
    (tmp_path / "ssd").mkdir()
    agent = NodeAgent(
        NodeConfig("node", "", store.objects.url, str(tmp_path / "ssd"), 1 << 20, 1 << 20, 1000, use_peers=False)
    )
    agent._tiers._remote = Watched(RemoteTier(store), gate)
    assert isinstance(agent._pool, PlayedPool)
    called = Called(agent, units, gate, agent._pool)
    await called.server.listen("tcp://127.0.0.1:0")
    await called.server
    yield called
    gate.open()
    await called.server.close()
    await agent.teardown(None)  # type: ignore[arg-type] # it was never set up in one


async def test_a_caller_who_stays_has_the_stage(called: Called) -> None:
    called.pool.may_fork.set()
    assert isinstance(await called.ask(called.form()), StageFormed)
    assert called.stages.groups == ("g",)


@pytest.mark.parametrize("moment", ["nothing", "ready", "taken"])
async def test_a_stage_whose_caller_left_is_not_formed(called: Called, moment: str) -> None:
    """It kept its memory until its lease ended, which nobody renewed."""
    called.pool.goes = moment
    if moment != "nothing":
        called.pool.may_fork.set()
    async with called.given(called.form()):
        await asyncio.wait_for(called.pool.asked.wait(), DEADLINE_S)
        assert called.stages.reserved_bytes
    await until(lambda: called.stages.groups == () and called.pool.alive == 0)
    assert called.stages.reserved_bytes == 0
    called.gate.open()
    await until(lambda: not called.tiers.loading)
    assert called.tiers.dram.used_bytes == 0


async def test_a_stage_that_is_formed_as_its_caller_leaves_is_dissolved(called: Called) -> None:
    called.pool.may_fork.set()
    answer = from_wire(await called.agent._on_order(_Leaving(called), to_wire(called.form())))
    assert isinstance(answer, NotDone)
    assert called.stages.groups == ()
    await until(lambda: called.pool.alive == 0)


class _Leaving:
    """A connection that is closed when the stage is formed."""

    def __init__(self, called: Called) -> None:
        self._called = called

    def closed(self) -> bool:
        stage = self._called.stages._stages.get("g")
        return stage is not None and stage.formed.done()


@pytest.mark.parametrize("tier", ["dram", "ssd"])
async def test_units_whose_caller_left_are_not_brought(called: Called, tier: str) -> None:
    """All that the order named came, over wires that starts were waiting for."""
    async with called.given(BringUnits("model", called.units, tier, DEADLINE_S)):
        assert await asyncio.to_thread(called.gate.reached.wait, DEADLINE_S)
    remote = called.tiers._remote
    assert isinstance(remote, Watched)
    await until(lambda: called.tiers.transfer(called.units[0]) is None or _stopped(called))
    called.gate.open()
    await until(lambda: not called.tiers.loading)
    await asyncio.sleep(0.05)
    assert {name for name, _ in remote.reads} == {called.units[0].name}
    assert called.tiers.dram.used_bytes == 0


def _stopped(called: Called) -> bool:
    transfer = called.tiers.transfer(called.units[0])
    return transfer is not None and transfer.error is not None


async def test_units_are_brought_for_so_long_as_the_order_says(called: Called) -> None:
    answer = await called.ask(BringUnits("model", called.units, "dram", 0.1))
    assert isinstance(answer, NotDone)
    assert "0 bytes were brought" in answer.message
    called.gate.open()
    assert isinstance(await called.ask(BringUnits("model", called.units, "dram", DEADLINE_S)), UnitsBrought)


async def test_a_measurement_whose_caller_left_ends(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """It read from the store for as long as the order said, and the next one waited for that."""
    begun, stopped = threading.Event(), threading.Event()

    def measure(what: tuple[str, ...], seconds: float, stop: Any) -> dict[str, float]:
        begun.set()
        while not stop():
            if stopped.wait(0.01):
                break
        stopped.set()
        return dict.fromkeys(what, seconds)

    monkeypatch.setattr(called.agent._prober, "_store", measure)
    async with called.given(Probe((NIC,), 10 * DEADLINE_S, keep=True)):
        assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    assert await asyncio.to_thread(stopped.wait, DEADLINE_S)
    await until(lambda: not called.agent._prober._one.locked())
    assert NIC not in called.agent._rates
    monkeypatch.setattr(called.agent._prober, "_store", lambda what, seconds, stop: {REACH: 1.0})
    assert not isinstance(await called.ask(Probe((REACH,), 0.1, keep=False)), NotDone | Done)
