"""Time to first token of a cold model at several degrees, and of a warm one; where the time goes.

    python benchmarks/cold_start.py [--json] [--repeats N]

SmolLM2-135M-Instruct in bfloat16 over four nodes on this machine, asked over HTTP by a streaming client; each figure is
the best of several, every cold start from an empty tier ("remote": the store is a folder in the page cache) or from
dram. The runtime floor is what a cold start costs beside bytes and prefill: the cold TTFT with all units in dram, where
no byte moves, less the warm TTFT of the same request, which is request handling and prefill.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.model import published_smollm2
from benchmarks.report import Result, parser, report
from benchmarks.running import Platform, run_platform, settle
from cluster.client import ClusterClient
from storage_tiers.checkpoint import Checkpoint

NODES = 4
DEGREES = (1, 2, 4)
SETTLE_S = 60.0
FLOOR_GOAL_S = 0.5
QUESTION = "What is the capital of France? Answer in one sentence."


def ttft(url: str, model: str) -> float:
    """Seconds from sending the request to the first piece of text."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 4,
        "stream": True,
    }
    with httpx.Client(timeout=120) as client:
        client.get(f"{url}/healthz")  # the connection is there, as a client's would be
        started_s = time.perf_counter()
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            first_s = None
            for line in answer.iter_lines():
                if first_s is None and '"content":' in line and '"content":""' not in line:
                    first_s = time.perf_counter()
    if first_s is None:
        raise RuntimeError("no text came")
    return first_s - started_s


async def _to_tier(platform: Platform, checkpoint: Checkpoint, tier: str) -> None:
    """Every node has all units in `tier`; with "remote" none has any."""
    async with ClusterClient(platform.scheduler_address) as client:
        for node in (await client.nodes(NODES)).nodes:
            if tier == "remote":
                await client.evict(node.name, checkpoint)
            else:
                await client.bring(node.name, checkpoint, [u.name for u in checkpoint.units], tier, SETTLE_S)


@dataclass(frozen=True)
class Best:
    """The shortest of several TTFTs: cold by the tier the units were in ("remote", "dram"), and warm; in seconds."""

    cold_s: dict[str, float]
    warm_s: float
    ledger: dict[str, object]

    @property
    def floor_s(self) -> float:
        """The runtime floor."""
        return self.cold_s["dram"] - self.warm_s


def best(
    platform: Platform, checkpoint: Checkpoint, degree: int, repeats: int, tiers: Sequence[str] = ("remote", "dram")
) -> Best:
    """Cold starts from each tier in turn, every one followed by warm requests; the ledger of the best from remote."""
    url = platform.urls[degree]
    cold, warm = dict.fromkeys(tiers, float("inf")), float("inf")
    ledger: dict[str, object] = {}
    for _ in range(repeats):
        for tier in tiers:
            settle(url, NODES, time.monotonic() + SETTLE_S)
            asyncio.run(_to_tier(platform, checkpoint, tier))
            found = ttft(url, checkpoint.name)
            if tier == "remote" and found < cold[tier]:
                answer = httpx.get(f"{url}/admin/cold-starts", params={"model": checkpoint.name, "limit": 1})
                ledger = answer.json()["cold_starts"][0]
            cold[tier] = min(cold[tier], found)
            warm = min(warm, *(ttft(url, checkpoint.name) for _ in range(3)))
    return Best(cold, warm, ledger)


def measure(platform: Platform, checkpoint: Checkpoint, repeats: int) -> tuple[list[Result], dict[str, object]]:
    """All figures, and the ledger of the best cold start at the highest degree."""
    found = {degree: best(platform, checkpoint, degree, repeats) for degree in DEGREES}
    results: list[Result] = []
    for degree, b in found.items():
        results.append(Result(f"ttft_cold_degree{degree}_s", b.cold_s["remote"], "s", "lower", b.warm_s, "warm"))
        results.append(Result(f"ttft_dram_degree{degree}_s", b.cold_s["dram"], "s", "lower", b.warm_s, "warm"))
        results.append(Result(f"runtime_floor_degree{degree}_s", b.floor_s, "s", "lower", FLOOR_GOAL_S, "the goal"))
    highest = found[max(DEGREES)]
    results.append(Result("ttft_warm_s", min(b.warm_s for b in found.values()), "s", "lower"))
    results.append(Result("runtime_floor_s", highest.floor_s, "s", "lower", FLOOR_GOAL_S, "the goal"))
    return results, highest.ledger


def show(ledger: dict[str, object]) -> None:
    """The ledger as a table, units of a node joined."""
    table = Table("phase", "where", "start s", "end s", "MB", title="a cold start at the highest degree")
    joined: dict[tuple[str, str], list[float]] = {}
    for phase in ledger["phases"]:  # type: ignore[attr-defined]
        kind = (
            phase["name"].split(" ")[0] if phase["name"].startswith(("fetch ", "assign ", "wait ")) else phase["name"]
        )
        row = joined.setdefault((kind, phase["where"]), [phase["start_s"], phase["end_s"], 0])
        row[0], row[1], row[2] = min(row[0], phase["start_s"]), max(row[1], phase["end_s"]), row[2] + phase["bytes"]
    for (name, where), (start_s, end_s, size) in joined.items():
        table.add_row(name, where, f"{start_s:.3f}", f"{end_s:.3f}", f"{size / 1e6:.1f}" if size else "")
    Console().print(table)


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--repeats", type=int, default=3, help="cold starts per degree and tier; the best counts")
    options = args.parse_args()
    with tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder:
        store_url, checkpoint = published_smollm2()
        with run_platform(Path(folder), store_url, NODES, DEGREES) as platform:
            results, ledger = measure(platform, checkpoint, options.repeats)
    if not options.json:
        show(ledger)
    report("cold_start", results, options.json)


if __name__ == "__main__":
    main()
