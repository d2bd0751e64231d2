"""Cold starts while another model is staged: on the nodes of the start itself, and on others that read from the same store.

In the lab (infra/lab, as root): four nodes and a store, each behind a card of the given rate. Two of the nodes have no room
for replicas.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.honesty_models import Shape, publish_random
from benchmarks.moves_stream import streamed
from benchmarks.pipeline_lab import calibrated, rest
from benchmarks.pipeline_models import subjects
from cluster.client import ClusterClient
from infra.lab.platform import BUCKET, Lab, run_lab
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

NODES, STARTED_ON = 4, ("node-0", "node-1")
STAGED_ON: Mapping[str, Sequence[str]] = {"alone": (), "same": STARTED_ON, "others": ("node-2", "node-3")}
SHAPE = Shape(len(STARTED_ON), 512, 12)
PROMPT = [5, 6, 7, 8]
WITHIN_S, READY_S = 120.0, 300.0


@dataclass(frozen=True)
class Beside:
    """TTFT in seconds of cold starts that were measured in rounds: `alone`, and while another model was staged."""

    alone_s: tuple[float, ...]
    same_s: tuple[float, ...]
    others_s: tuple[float, ...]

    def slowdowns(self, of: Sequence[float]) -> list[float]:
        """Of each round."""
        return [late / soon for soon, late in zip(self.alone_s, of, strict=True)]

    def slowdown(self, of: Sequence[float]) -> float:
        """In the median of the rounds."""
        return statistics.median(self.slowdowns(of))

    def spread(self, of: Sequence[float]) -> float:
        """Between the quartiles of the rounds."""
        low, _, high = statistics.quantiles(self.slowdowns(of), n=4)
        return high - low


def beside(bytes_per_s: float, rounds: int) -> Beside:
    """Rounds of three cold starts each, in turns. RuntimeError if nothing was being staged when it should have been."""
    frontend = {"policy": "fixed", "degree": len(STARTED_ON), "consolidate": False, "kv_tokens": 1024}
    full = {name: {"device_bytes": 1} for name in STAGED_ON["others"]}
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(
            Path(folder), NODES, (), bytes_per_s, bytes_per_s, settings_of=full, frontends={"front": frontend},
            ready_s=READY_S,
        ) as lab,
    ):  # fmt: skip
        store = ModelStore(ObjectStore(f"file://{lab.folder / 'buckets' / BUCKET}"))
        cold = publish_random(store, "cold", SHAPE, seed=1)
        (staged,) = subjects(lab, ["smollm2"])
        calibrated(lab)
        return asyncio.run(_measured(lab, cold, staged.checkpoint, rounds))


async def _measured(lab: Lab, cold: Checkpoint, staged: Checkpoint, rounds: int) -> Beside:
    times_s: dict[str, list[float]] = {where: [] for where in STAGED_ON}
    async with ClusterClient(lab.scheduler_address) as client:
        await client.nodes(NODES)
        await _start(lab, client, cold, staged, ())
        for number in range(rounds):
            turn = list(STAGED_ON)[number % len(STAGED_ON) :] + list(STAGED_ON)[: number % len(STAGED_ON)]
            for where in turn:
                times_s[where].append(await _start(lab, client, cold, staged, STAGED_ON[where]))
            print(", ".join(f"{where} {found[-1]:.3f} s" for where, found in times_s.items()), file=sys.stderr)
    return Beside(*(tuple(times_s[where]) for where in STAGED_ON))


async def _start(lab: Lab, client: ClusterClient, cold: Checkpoint, staged: Checkpoint, nodes: Sequence[str]) -> float:
    """TTFT of one cold start from nodes that hold nothing, while the other model is brought to some of them."""
    url = lab.named["front"]
    await asyncio.to_thread(rest, lab, url)
    for name in lab.nodes:
        for checkpoint in (cold, staged):
            await client.evict(name, checkpoint)
    async with _staging(client, staged, nodes) as bringing:
        stream = await asyncio.to_thread(streamed, url, {"model": cold.name, "prompt": PROMPT, "max_tokens": 4})
        if any(task.done() for task in bringing):
            raise RuntimeError("nothing was being staged any more when the cold start was over")
    return stream.ttft_s


@asynccontextmanager
async def _staging(
    client: ClusterClient, staged: Checkpoint, nodes: Sequence[str]
) -> AsyncIterator[list["asyncio.Task[object]"]]:
    """The layers are on their way to the nodes' dram, a first one is there on each; they go on when the block ends."""
    units = [unit.name for unit in staged.units[1:]]
    news = {node: asyncio.Event() for node in nodes}

    async def bring(node: str) -> object:
        return await client.bring(node, staged, units, "dram", WITHIN_S, lambda _bytes: news[node].set())

    bringing = [asyncio.create_task(bring(node)) for node in nodes]
    try:
        await _all(news)
        yield bringing
        for each in news.values():
            each.clear()
        await _all(news)
    finally:
        for task in bringing:
            task.cancel()
        await asyncio.gather(*bringing, return_exceptions=True)


async def _all(news: Mapping[str, asyncio.Event]) -> None:
    async with asyncio.timeout(WITHIN_S):
        for each in news.values():
            await each.wait()
