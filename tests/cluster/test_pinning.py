"""A whole stage process that copies its units, before a GPU that is played: what it says equals transformers."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.group import Group
from cluster.node.pool_news import PoolNews
from cluster.node.rendezvous import Rendezvous
from cluster.node.stage_process import StageProcess
from cluster.wire.codec import Channel
from cluster.wire.hello import group_secret
from cluster.wire.orders import FormStage
from cluster.wire.phases import COPY
from cluster.wire.reports import StageFormed
from cluster.wire.stages import Build, Formed, PhaseDone, UnitCopied, UnitHere
from schedules.facts import Placement, StagePlan
from storage_tiers.checkpoint import ALIGN_BYTES, UnitIndex
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.tiers.shared_memory import BlockPool, Run
from tests.cluster.groups import generate
from tests.cluster.played_pool import until
from tests.cluster.spoken import NEW_TOKENS, Tiny, publish_tiny

_DEADLINE_S = 60.0
_SECRET = "of the requests"
_STAGE = StagePlan("node", 0, 1, (), 0, 0)
_PIECE_BYTES = 16 * ALIGN_BYTES


class PlayedNode:
    """The agent of one stage process: memory with units in it, and what the process has said."""

    def __init__(self, store: ModelStore, tiny: Tiny) -> None:
        self.store, self.checkpoint, self.tiny = store, tiny.checkpoint, tiny
        self.memory = BlockPool(32 << 20, block_bytes=ALIGN_BYTES, piece_bytes=_PIECE_BYTES)
        self.rendezvous = Rendezvous("127.0.0.1")
        self.heard: list[object] = []

    def start(self) -> StageProcess:
        ours, theirs = Channel.pair()
        with theirs:
            command = [sys.executable, "-m", "tests.cluster.played_gpu", str(theirs.fileno())]
            environment = {**os.environ, "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
            self.program = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, env=environment
            )
        self.process = StageProcess(self.program.pid, os.pidfd_open(self.program.pid), Channel(ours))
        self.process.on_message = self.heard.append
        return self.process

    def order(self) -> Build:
        order = FormStage(
            group="g", model=self.checkpoint.name, rank=0, config_json=json.dumps(dict(self.checkpoint.config)),
            dtype=self.checkpoint.dtype, bounds=(0, self.checkpoint.layers), units=(), rendezvous_host="127.0.0.1",
            rendezvous_port=self.rendezvous.port, rendezvous_secret=group_secret(self.rendezvous.secret, "g"),
            reserve_bytes=1 << 30, kv_tokens=4096, timeout_s=_DEADLINE_S, lease_s=_DEADLINE_S,
        )  # fmt: skip
        return Build(order, _SECRET)

    def load(self, units: Sequence[UnitIndex]) -> list[UnitHere]:
        """The units, each in the node's memory."""
        return [
            UnitHere(unit, self._fill(self.store.unit_key(self.checkpoint.name, unit), unit.size_bytes))
            for unit in units
        ]

    def _fill(self, key: str, size_bytes: int) -> tuple[Run, ...]:
        runs, data = self.memory.allocate(size_bytes), bytearray(size_bytes)
        self.store.objects.read_into(key, 0, memoryview(data))
        at = 0
        for view in self.memory.views(runs, 0, size_bytes):
            view[:] = data[at : at + len(view)]
            at += len(view)
        return runs

    def said(self, kind: type) -> list[object]:
        return [message for message in self.heard if isinstance(message, kind)]

    def has_all(self, units: Sequence[UnitHere]) -> bool:
        """Whether the stage is formed and has the units."""
        return bool(self.said(Formed)) and len(self.said(UnitCopied)) == len(units)

    def close(self) -> None:
        self.program.kill()
        self.program.communicate()
        self.rendezvous.close()
        self.memory.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PlayedNode]:
    store = ModelStore(ObjectStore(str(tmp_path / "store")))
    tiny = publish_tiny("llama", True, tmp_path, store)
    made = PlayedNode(store, tiny)
    yield made
    made.close()


async def test_a_stage_that_copies_its_units_says_what_transformers_says(node: PlayedNode) -> None:
    """Of the units half are there before it is told of the memory; the last piece of that is never all real."""
    half = len(node.checkpoint.units) // 2
    units = node.load(node.checkpoint.units[:half])
    news = PoolNews(node.memory)
    process = node.start()
    try:
        async with asyncio.timeout(_DEADLINE_S):
            news.tell(process)
            idle = await process.ready()
            assert await process.begin(node.order())
            units += node.load(node.checkpoint.units[half:])
            for here in units:
                await process.send(here, node.memory.read_only_fd)
            await until(lambda: node.has_all(units) or process.ended.done(), _DEADLINE_S)
            assert node.has_all(units), process.fault
            group = Group("g", Placement("m", (_STAGE,), 4096, ()), ())
            await group.connect([StageFormed("g", 0, "127.0.0.1", idle.port, _SECRET)], _DEADLINE_S)
            for prompt, expected in zip(node.tiny.prompts, node.tiny.expected, strict=True):
                assert await generate(group, f"r{len(prompt)}", prompt, NEW_TOKENS) == expected
            await group.close()
    finally:
        await process.end()
        await news.close()
    copied = [message.digest for message in node.said(UnitCopied)]  # type: ignore[attr-defined]
    assert copied == [here.unit.digest for here in units], "in order"
    phases = [message.phase for message in node.said(PhaseDone)]  # type: ignore[attr-defined]
    names = [phase.name for phase in phases if phase.name.startswith(COPY)]
    assert names == [f"{COPY}{here.unit.name}" for here in units]
    assert all(phase.end_s > phase.start_s for phase in phases if phase.name in names)
    assert node.program.stdout is not None
    pinned = [int(line) for line in node.program.stdout.read().split()]
    assert pinned == [_PIECE_BYTES] * len(node.memory.real_pieces())
