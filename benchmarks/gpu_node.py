"""One of our nodes on a device: cold starts of a model from each tier, and requests to what was started, without HTTP."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generation_work import Outcome, Request, check
from benchmarks.page_cache import evict
from benchmarks.running import Platform, run_platform
from cluster.client import ClusterClient
from cluster.group import Group
from cluster.model_facts import facts_of
from cluster.wire.phases import COPY, FETCH, Phase
from cluster.wire.requests import Sampling, Submit
from schedules.facts import Node, Placement
from schedules.placing.policies.fixed import place
from storage_tiers.checkpoint import Checkpoint

READY_S, TIMEOUT_S = 120.0, 60.0
_ASK_AGAIN_S = 0.05
_ROOM = 1.25
_SPARE_BYTES = 1 << 30
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Start:
    """A cold start: seconds from the order until the group took requests, and until its first token; what was done when."""

    formed_s: float
    first_token_s: float
    phases: tuple[Phase, ...]

    @property
    def copied_bytes_per_s(self) -> float | None:
        """From the first byte copied to the device to the last; None where nothing is."""
        copies = [phase for phase in self.phases if phase.name.startswith(COPY)]
        if not copies:
            return None
        taken_s = max(phase.end_s for phase in copies) - min(phase.start_s for phase in copies)
        return sum(phase.bytes for phase in copies) / taken_s

    @property
    def joined(self) -> list[dict[str, object]]:
        """The phases, units joined: from when to when after the first, how long in all, how many."""
        found: dict[tuple[str, str], list[Phase]] = {}
        for phase in self.phases:
            kind = phase.name.split(" ")[0] if phase.name.startswith((FETCH, COPY, "assign ", "wait ")) else phase.name
            found.setdefault((kind, phase.where), []).append(phase)
        zero_s = min(phase.start_s for phase in self.phases)
        return [
            {
                "phase": kind,
                "where": where,
                "start_s": round(min(phase.start_s for phase in some) - zero_s, 4),
                "end_s": round(max(phase.end_s for phase in some) - zero_s, 4),
                "busy_s": round(sum(phase.end_s - phase.start_s for phase in some), 4),
                "count": len(some),
                "bytes": sum(phase.bytes for phase in some),
            }
            for (kind, where), some in found.items()
        ]


class DeviceNode:
    """The node, and how it is asked. It is alone in its cluster."""

    def __init__(self, platform: Platform, client: ClusterClient) -> None:
        self.log = platform.log
        self._disk, self._client = platform.home / "nodes", client
        self._kept: set[str] = set()

    async def bring(self, checkpoint: Checkpoint, tier: str) -> None:
        """Have all units in a tier and in no faster one; "remote": on the node nowhere. Files on its disk are not in memory.

        In "dram" they stay on disk too, and are written there by the time this returns. RuntimeError if it did not come so.
        """
        await self.settle()
        node, units = await self._node(), [unit.name for unit in checkpoint.units]
        digests = {unit.digest for unit in checkpoint.units}
        if tier != "dram":
            await self._client.evict(node.name, checkpoint)
            self._kept -= digests
        if tier != "remote":
            await self._client.bring(node.name, checkpoint, units, tier, READY_S)
            self._kept |= digests
        await _until(lambda _node: self._kept <= {path.name for path in self._files()}, self._node, READY_S)
        held = (await self._node()).units
        found = {held.get(unit.digest, "remote") for unit in checkpoint.units}
        if found != {tier}:
            raise RuntimeError(f"{checkpoint.name} was to be in {tier}, and is in {', '.join(sorted(found))}")
        await asyncio.to_thread(lambda: evict(self._files()))

    async def start(
        self, checkpoint: Checkpoint, kv_tokens: int, prompt: Sequence[int], new_tokens: int = 4, rest_s: float = 0.0
    ) -> tuple[Group, Start]:
        """Order a group of one stage, and ask it at once. RuntimeError if it cannot be placed.

        `rest_s`: how long the process that takes the order has waited, at least; what it does while it waits is done then.
        """
        await self.settle()
        await asyncio.sleep(rest_s)
        placement = place(facts_of(checkpoint), self._client.view(), 1, kv_tokens)
        if not isinstance(placement, Placement):
            raise RuntimeError(f"{checkpoint.name} cannot be placed: {placement}")
        started_s = time.perf_counter()
        group = await self._client.form(uuid.uuid4().hex, placement, checkpoint, READY_S)
        formed_s = time.perf_counter() - started_s
        asked = Request(tuple(prompt), new_tokens)
        (outcome,) = await generate(group, [asked])
        first_token_s = formed_s + outcome.times_s[0]
        return group, Start(formed_s, first_token_s, await self._client.phases(group))

    async def end(self, group: Group) -> None:
        """Dissolve it."""
        await self._client.dissolve(group)

    async def settle(self) -> None:
        """Wait until a stage process waits and none is busy. NodeLost or TimeoutError if that takes for ever."""
        await self._client.nodes(1, READY_S)
        await _until(
            lambda node: bool(node.idle_stage_processes and not node.busy_stage_processes), self._node, READY_S
        )

    def _files(self) -> list[Path]:
        """What is on its disk; whole units are named by their digests."""
        return [path for path in self._disk.rglob("*") if path.is_file()]

    async def _node(self) -> Node:
        (node,) = (await self._client.refresh()).nodes
        return node


async def _until(true: Callable[[Node], bool], report: Callable[[], Awaitable[Node]], timeout_s: float) -> None:
    """Ask the node again and again. TimeoutError if it does not come true."""
    async with asyncio.timeout(timeout_s):
        while True:
            if true(await report()):
                return
            await asyncio.sleep(_ASK_AGAIN_S)


@contextlib.asynccontextmanager
async def run_node(
    home: Path, store_url: str, device: str, bytes_at_most: int, device_bytes: int = 0
) -> AsyncIterator[DeviceNode]:
    """A node that can hold models of so many bytes in memory and on disk, not ready yet. Nothing of it is left after."""
    room_bytes = int(bytes_at_most * _ROOM) + _SPARE_BYTES
    settings = {
        "device": device, "device_bytes": device_bytes, "dram_bytes": room_bytes, "ssd_bytes": room_bytes,
    }  # fmt: skip
    with run_platform(home, store_url, 1, (), node=settings) as platform:
        async with ClusterClient(platform.scheduler_address, connect_timeout_s=READY_S) as client:
            yield DeviceNode(platform, client)


async def generate(group: Group, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Outcome]:
    """All requests at once, to their end. TimeoutError if that takes for ever."""
    started_s = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S):
        outcomes = await asyncio.gather(*(_one(group, request, sampling, started_s) for request in requests))
    check(requests, outcomes)
    return outcomes


async def _one(group: Group, request: Request, sampling: Sampling, started_s: float) -> Outcome:
    submit = Submit(uuid.uuid4().hex, request.prompt, len(request.prompt), request.new_tokens, (), sampling)
    tokens: list[int] = []
    times_s: list[float] = []
    async for event in group.generate(submit):
        tokens += event.tokens
        times_s += [time.perf_counter() - started_s] * len(event.tokens)
    return Outcome(tuple(tokens), tuple(times_s))
