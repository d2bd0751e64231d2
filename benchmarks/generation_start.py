"""What a cold start costs beside bytes: forming a group, the runtime floor, and a hop between stages."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.cold_start import FLOOR_GOAL_S, NODES, best
from benchmarks.generation_hop import hop_us
from benchmarks.generation_model import MeasuredModel
from benchmarks.generation_ours import TIMEOUT_S, generate, placed, run_nodes, settle
from benchmarks.generation_work import shortened, together
from benchmarks.report import Result
from benchmarks.running import run_platform

_HOP_TOKENS = 16


def measure_start(
    home: Path, model: MeasuredModel, suffix: str, forms: int, say: Callable[[str], None]
) -> list[Result]:
    """All of it, in one dtype; `suffix` goes after every name."""
    hops = {tokens: hop_us(model, tokens) for tokens in (1, _HOP_TOKENS)}
    say(f"  a hop: {hops[1]:.0f} us")
    formed_s = asyncio.run(_formed(home, model, forms, say))
    with run_platform(home, model.store_url, NODES, (NODES,)) as platform:
        floor_s = best(platform, model.checkpoint, NODES, max(forms // 3, 4), ("dram",)).floor_s
    say(f"  the runtime floor: {floor_s:.3f} s")
    return [
        Result(f"order_to_formed_degree{NODES}_ms{suffix}", formed_s * 1e3, "ms", "lower"),
        Result(f"hop_us{suffix}", hops[1], "us", "lower"),
        Result(f"hop_tokens{_HOP_TOKENS}_us{suffix}", hops[_HOP_TOKENS], "us", "lower"),
        Result(f"runtime_floor_s{suffix}", floor_s, "s", "lower", FLOOR_GOAL_S, "the goal"),
    ]


async def _formed(home: Path, model: MeasuredModel, forms: int, say: Callable[[str], None]) -> float:
    """Median seconds from the order to form a group of the highest degree until it takes requests.

    All units are in dram and a stage process waits on every node, as when a cold start finds everything prewarmed.
    """
    found_s = []
    async with run_nodes(home, model, NODES) as client:
        for index in range(forms):
            placement = placed(client, model.checkpoint, NODES)
            started_s = time.perf_counter()
            group = await client.form(uuid.uuid4().hex, placement, model.checkpoint, TIMEOUT_S)
            found_s.append(time.perf_counter() - started_s)
            say(f"  {index + 1} formed in {found_s[-1] * 1e3:.1f} ms")
            await generate(group, shortened(together(model.text, 1)))  # it must work, and nodes refill behind a step
            await client.dissolve(group)
            await settle(client, NODES)
    return statistics.median(found_s)
