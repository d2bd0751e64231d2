"""What a GPU gives: the first token from each tier, and tokens a second, against the device's limits and transformers.

    python benchmarks/gpu.py [--json] [--quick] [--only limits|cold|decode|sampling|equality|peers...]
                             [--device cuda|cuda:N|cpu] [--size full|tiny] [--within SECONDS]

Models of random weights in the shapes of a llama of 8B and a qwen3 of 0.6B, in bfloat16, made on the device and published to
a store that is a folder: nothing is downloaded, and Prefect is not needed. One node of ours is started as users start it and
asked without HTTP; transformers is a fresh process. Each figure is told on stderr as soon as it is known; a part that fails
loses only itself. Where there is no GPU it says so, and is done.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.generation_work import PROMPT_TOKENS, Outcome, Request, shortened, tokens_per_s, tpot_s
from benchmarks.gpu_figures import Figures
from benchmarks.gpu_limits import DeviceLimits, device_limits, disk_bytes_per_s
from benchmarks.gpu_models import EXACT, SIZES, Shape, make
from benchmarks.gpu_node import GREEDY, DeviceNode, generate, run_node
from benchmarks.gpu_peer import Peer
from benchmarks.page_cache import evict
from benchmarks.report import parser, report
from cluster.group import Group
from cluster.node.accelerator import find_gpus
from cluster.wire.requests import Sampling
from storage_tiers.checkpoint import EMBED, Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish

PARTS = ("limits", "cold", "decode", "sampling", "equality", "peers")
WITHIN_S = 240.0
KV_TOKENS = 65536
_SHARED_MEMORY, _ROOM = Path("/dev/shm"), 1.5
_SAMPLED_REQUESTS, _EQUAL_PROMPTS, _EQUAL_TOKENS = 64, 8, 16
_MOST_PEER_REQUESTS = 64
"""Beyond that `generate` takes longer than all the rest."""
_SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=3)


@dataclass(frozen=True)
class Amounts:
    """How much of everything is measured."""

    requests: tuple[int, ...]
    new_tokens: int
    peer_new_tokens: int
    warm_up_tokens: int
    runs: int
    starts: int
    limit_bytes: int
    rest_s: float


AMOUNTS = {
    "full": Amounts((1, 16, 64, 256), 128, 32, 32, 2, 2, 1 << 30, 3.0),
    "tiny": Amounts((1, 16), 8, 8, 4, 1, 1, 64 << 20, 0.0),
}


def quick(amounts: Amounts) -> Amounts:
    """As much as shows whether it goes at all."""
    return replace(amounts, requests=amounts.requests[:3], new_tokens=min(amounts.new_tokens, 64), runs=1, starts=1)


@dataclass(frozen=True)
class Options:
    """What to measure, on what ("cpu", "cuda", "cuda:N"), and how much of it."""

    only: Sequence[str]
    device: str
    shapes: tuple[Shape, Shape]
    amounts: Amounts


@dataclass(frozen=True)
class Subject:
    """A model, as published and as the folder that transformers loads."""

    shape: Shape
    checkpoint: Checkpoint
    folder: Path

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.checkpoint.units)

    @property
    def read_bytes(self) -> int:
        """Of it what a step of one token reads: all but an embedding of its own, of which it reads a row."""
        embedding = 0 if self.checkpoint.tied_embeddings else self.checkpoint.unit(EMBED).size_bytes
        return self.size_bytes - embedding

    def prompts(self, count: int) -> list[tuple[int, ...]]:
        """Random ones, always the same."""
        chance = random.Random(count)
        return [tuple(chance.randrange(5, self.shape.vocabulary) for _ in range(PROMPT_TOKENS)) for _ in range(count)]


class Bench:
    """One run over models that are there: its parts, in the order of what matters most."""

    def __init__(
        self, options: Options, figures: Figures, node: DeviceNode, peer: Peer, subjects: Sequence[Subject], store: Path
    ) -> None:
        self._options, self._amounts, self._figures = options, options.amounts, figures
        self._node, self._peer, self._store = node, peer, store
        self._large, self._small, self._exact = subjects
        self._limits: DeviceLimits | None = None
        self._answers: list[Outcome] = []

    async def run(self) -> None:
        """All parts that are wanted."""
        wanted = set(self._options.only)
        if "limits" in wanted or wanted & {"cold", "decode"}:
            await self._part("limits", self._device_limits)
        if wanted & {"cold", "decode", "sampling", "equality"}:
            await self._part("a large model from dram", self._from_dram)
        if wanted & {"equality", "peers"}:
            await self._part("today", self._today)
        if "equality" in wanted:
            await self._part("equality of the large model", self._equality)
            await self._part("equality in float32", self._exact_equality)
        if "decode" in wanted:
            await self._part("decode of the small model", self._small_decode)
        if "cold" in wanted:
            await self._part("from ssd", partial(self._from_disk, "ssd"))
            await self._part("from remote", partial(self._from_disk, "remote"))
        if "peers" in wanted:
            await self._part("generate of transformers", self._peer_rates)

    async def _part(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        await self._figures.part(name, run, self._node.log)

    # ---- limits

    async def _device_limits(self) -> None:
        await self._node.settle()
        self._limits = await tell_device(self._figures, self._options.device, self._amounts.limit_bytes)

    # ---- ours

    async def _from_dram(self) -> None:
        """Cold starts, the best of which counts; the last stays and is asked for all that is wanted of the large model."""
        only, large = self._options.only, self._large
        await self._node.bring(large.checkpoint, "dram")
        starts = []
        for left in reversed(range(self._amounts.starts if "cold" in only else 1)):
            asked = large.checkpoint, KV_TOKENS, large.prompts(1)[0]
            group, start = await self._node.start(*asked, rest_s=self._amounts.rest_s)
            starts.append(start)
            if left:
                await self._node.end(group)
        best = min(starts, key=lambda start: start.first_token_s)
        if "cold" in only:
            pinned = self._limits.pinned_bytes_per_s if self._limits else None
            limit_s = large.size_bytes / pinned if pinned else None
            self._figures.tell("gpu_ttft_dram_s", best.first_token_s, "s", "lower", limit_s, "a pinned copy")
            self._figures.tell("gpu_formed_s", best.formed_s, "s", "lower")
            if best.copied_bytes_per_s is not None:
                rate, limit = best.copied_bytes_per_s / 1e9, pinned / 1e9 if pinned else None
                self._figures.tell("gpu_copy_gb_per_s", rate, "GB/s", "higher", limit, "a pinned copy")
            self._figures.add("phases_dram", best.joined)
        try:
            await self._ask_large(group)
        finally:
            await self._node.end(group)

    async def _ask_large(self, group: Group) -> None:
        only = self._options.only
        if "equality" in only:
            asked = [Request(prompt, _EQUAL_TOKENS) for prompt in self._large.prompts(_EQUAL_PROMPTS)]
            self._answers = [(await generate(group, [one]))[0] for one in asked]
        if "decode" in only:
            await self._decode(group, self._large, "")
        if "sampling" in only:
            rate, _ = await self._rate(group, self._large, _SAMPLED_REQUESTS, _SAMPLED)
            greedy = self._figures.value(f"gpu_tokens_per_s_requests{_SAMPLED_REQUESTS}")
            name = f"gpu_sampled_tokens_per_s_requests{_SAMPLED_REQUESTS}"
            self._figures.tell(name, rate, "tokens/s", "higher", greedy, greedy and "greedy")

    async def _small_decode(self) -> None:
        await self._node.bring(self._small.checkpoint, "dram")
        group, start = await self._node.start(self._small.checkpoint, KV_TOKENS, self._small.prompts(1)[0])
        try:
            self._figures.tell("gpu_small_ttft_dram_s", start.first_token_s, "s", "lower")
            await self._decode(group, self._small, "small_")
        finally:
            await self._node.end(group)

    async def _decode(self, group: Group, subject: Subject, kind: str) -> None:
        limits = self._limits
        for count in self._amounts.requests:
            rate, tpot = await self._rate(group, subject, count, GREEDY)
            limit = count * limits.memory_bytes_per_s / subject.read_bytes if limits else None
            name = f"gpu_{kind}tokens_per_s_requests{count}"
            self._figures.tell(name, rate, "tokens/s", "higher", limit, "weights read once a step")
            self._figures.tell(f"gpu_{kind}tpot_ms_requests{count}", tpot * 1e3, "ms", "lower")

    async def _rate(self, group: Group, subject: Subject, count: int, sampling: Sampling) -> tuple[float, float]:
        """Tokens a second of the best run, and its median seconds between a request's tokens."""
        asked = [Request(prompt, self._amounts.new_tokens) for prompt in subject.prompts(count)]
        await generate(group, shortened(asked, self._amounts.warm_up_tokens), sampling)
        runs = [await generate(group, asked, sampling) for _ in range(self._amounts.runs)]
        best = max(runs, key=tokens_per_s)
        return tokens_per_s(best), tpot_s(best)

    async def _from_disk(self, tier: str) -> None:
        """A cold start with nothing of the model in memory, beside what the disk gives to a plain reader then."""
        large = self._large
        await self._node.bring(large.checkpoint, tier)
        await asyncio.to_thread(evict, [path for path in self._store.rglob("*") if path.is_file()])
        disk = await tell_disk(self._figures, self._store, self._amounts.limit_bytes, f"gpu_disk_{tier}_gb_per_s")
        group, start = await self._node.start(large.checkpoint, KV_TOKENS, large.prompts(1)[0])
        await self._node.end(group)
        name, limit_s = f"gpu_ttft_{tier}_s", large.size_bytes / disk
        self._figures.tell(name, start.first_token_s, "s", "lower", limit_s, "the disk, past the page cache")
        self._figures.add(f"phases_{tier}", start.joined)

    # ---- transformers

    async def _today(self) -> None:
        steps = await asyncio.to_thread(self._peer.load, self._large.folder, self._large.prompts(1)[0])
        whole_s = sum(steps.values())
        self._figures.tell("gpu_today_ttft_s", whole_s, "s", "lower")
        self._figures.tell("gpu_today_ttft_after_imports_s", whole_s - steps["imports_s"], "s", "lower")
        self._figures.add("phases_today", {name: round(taken_s, 4) for name, taken_s in steps.items()})

    async def _equality(self) -> None:
        if not self._answers:
            raise RuntimeError("we gave no answers to compare")
        await self._compare("gpu_greedy_equal", self._large, self._answers)
        gaps = [
            await asyncio.to_thread(self._peer.worst_gap, self._large.folder, prompt, outcome.tokens)
            for prompt, outcome in zip(self._large.prompts(_EQUAL_PROMPTS), self._answers, strict=True)
        ]
        self._figures.tell("gpu_greedy_worst_gap", max(gaps), "logits", "lower")

    async def _exact_equality(self) -> None:
        await self._node.bring(self._exact.checkpoint, "dram")
        group, _ = await self._node.start(self._exact.checkpoint, KV_TOKENS, self._exact.prompts(1)[0])
        try:
            asked = [Request(prompt, _EQUAL_TOKENS) for prompt in self._exact.prompts(_EQUAL_PROMPTS)]
            answers = await generate(group, asked)
        finally:
            await self._node.end(group)
        await self._compare("gpu_greedy_equal_float32", self._exact, answers)

    async def _compare(self, name: str, subject: Subject, answers: Sequence[Outcome]) -> None:
        """How many tokens are the peer's, of all: in each answer those before the first that is another."""
        prompts = subject.prompts(_EQUAL_PROMPTS)
        expected = await asyncio.to_thread(self._peer.greedy, subject.folder, prompts, _EQUAL_TOKENS)
        pairs = zip((list(outcome.tokens) for outcome in answers), expected, strict=True)
        equal = sum(common(ours, theirs) for ours, theirs in pairs)
        self._figures.tell(name, equal / (_EQUAL_PROMPTS * _EQUAL_TOKENS), "fraction", "higher")

    async def _peer_rates(self) -> None:
        for subject, kind in ((self._large, ""), (self._small, "small_")):
            for count in [count for count in self._amounts.requests if count <= _MOST_PEER_REQUESTS]:
                tokens = self._amounts.peer_new_tokens
                first, again = await asyncio.to_thread(self._peer.rates, subject.folder, count, PROMPT_TOKENS, tokens)
                ours = self._figures.value(f"gpu_{kind}tokens_per_s_requests{count}")
                name = f"gpu_transformers_{kind}tokens_per_s_requests{count}"
                self._figures.tell(name, first, "tokens/s", "higher", ours, ours and "ours")
                self._figures.tell(f"{name}_again", again, "tokens/s", "higher", ours, ours and "ours")


async def tell_device(figures: Figures, device: str, size_bytes: int) -> DeviceLimits:
    """What the device can do."""
    found = await asyncio.to_thread(device_limits, device, size_bytes)
    figures.tell("gpu_pinned_copy_gb_per_s", found.pinned_bytes_per_s / 1e9, "GB/s")
    figures.tell("gpu_pageable_copy_gb_per_s", found.pageable_bytes_per_s / 1e9, "GB/s")
    figures.tell("gpu_memory_gb_per_s", found.memory_bytes_per_s / 1e9, "GB/s")
    return found


async def tell_disk(figures: Figures, folder: Path, size_bytes: int, name: str = "gpu_disk_gb_per_s") -> float:
    """What the disk under a folder gives to a plain reader, in bytes a second."""
    rate = await asyncio.to_thread(disk_bytes_per_s, folder, size_bytes)
    figures.tell(name, rate / 1e9, "GB/s")
    return rate


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def prepared(options: Options, sources: Path, store_url: str) -> list[Subject]:
    """The models, made and published."""
    shapes = [*options.shapes, EXACT]
    folders = [sources / shape.name for shape in shapes]
    make(options.device, list(zip(shapes, folders, strict=True)))
    store = ModelStore(ObjectStore(store_url))
    return [
        Subject(shape, publish(str(folder), shape.name, store, workers=os.cpu_count() or 1), folder)
        for shape, folder in zip(shapes, folders, strict=True)
    ]


def roomy(size_bytes: int) -> Path | None:
    """A folder in memory, if there is one with room for so much; None: where temporary files are. The disk is the tiers'."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _ROOM * size_bytes:
        return _SHARED_MEMORY
    return None


async def measure(options: Options, figures: Figures) -> None:
    """All that is wanted. Whatever was made is removed."""
    size_bytes = sum(shape.size_bytes for shape in (*options.shapes, EXACT))
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="firsttoken-bench-", dir=roomy(size_bytes)) as sources,
        Peer(options.device) as peer,
    ):
        home, store = Path(folder, "home"), Path(folder, "store")
        for made in (home, store):
            made.mkdir()
        store_url = f"file://{store}"
        making = asyncio.ensure_future(asyncio.to_thread(prepared, options, Path(sources), store_url))
        async with run_node(home, store_url, options.device, size_bytes) as node:
            subjects = await making
            figures.say("published", bytes=[subject.size_bytes for subject in subjects])
            await Bench(options, figures, node, peer, subjects, store).run()


async def measure_limits(options: Options, figures: Figures) -> None:
    """No model, no node."""
    amounts = options.amounts
    await figures.part("limits", partial(tell_device, figures, options.device, amounts.limit_bytes))
    with tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder:
        await figures.part("disk", partial(tell_disk, figures, Path(folder), amounts.limit_bytes))


async def until_terminated(
    run: Callable[[Options, Figures], Awaitable[None]], options: Options, figures: Figures
) -> None:
    """Run it; at SIGTERM it is cancelled, so that node and peer end with us and what is known is told."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run(options, figures)


def options_of(given: argparse.Namespace) -> Options:
    """What the command line asks for."""
    amounts = AMOUNTS[given.size]
    return Options(given.only, given.device, SIZES[given.size], quick(amounts) if given.quick else amounts)


def main() -> int:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    args.add_argument("--quick", action="store_true", help="up to 64 requests, 64 tokens, one run of each")
    args.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to rehearse it")
    args.add_argument("--size", choices=tuple(SIZES), default="full", help="tiny: to rehearse it")
    args.add_argument("--within", type=float, metavar="SECONDS", default=WITHIN_S, help="no part begins after so long")
    given = args.parse_args()
    accelerator = None
    if given.device != "cpu":
        found, index = find_gpus(), int(given.device.partition(":")[2] or 0)
        if index >= len(found.gpus):
            print(f"there is no GPU for this benchmark: {found.reason or given.device}")
            return 0
        accelerator = found.gpus[index].name
    options, figures = options_of(given), Figures(given.within)
    try:
        asyncio.run(until_terminated(measure_limits if set(given.only) == {"limits"} else measure, options, figures))
    except asyncio.CancelledError:
        figures.failed.append("all that was left")
    finally:
        report("gpu", figures.results, given.json, accelerator, failed=figures.failed, **figures.more)
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main())
