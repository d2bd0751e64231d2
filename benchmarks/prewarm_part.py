"""A part of a made-up trace on a live cluster, sped up: with what starts leave behind alone, and with plans of prewarming.

In the lab (infra/lab, as root): four nodes whose dram holds three models each, behind disks twice as fast as their cards;
twenty models, two days of calls to learn from, and an hour and a half of the third that is really sent. Plans are made by the
functions that the flow calls, and carried out by the cluster's client as the flow does it; they think in the trace's time, in
which the cluster is as much slower as the trace is faster. Nothing is kept on accelerators.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.honesty_clients import LEAD_S, Seen, send
from benchmarks.honesty_models import Shape, publish_random
from benchmarks.pipeline_lab import calibrated, rest
from benchmarks.prewarm_workload import DAY_S, HOUR_S, seasons
from cluster.client import ClusterClient
from cluster.errors import ClusterError
from cluster.model_facts import facts_of
from infra.lab.platform import BUCKET, Lab, run_lab
from schedules.facts import ModelKey, Rate, View
from schedules.foresight.forecasters import DEFAULT, FORECASTERS
from schedules.foresight.past import past_of
from schedules.foresight.plan import Plan, Staging
from schedules.foresight.planner import Ground, Wanted, make_plan
from schedules.objectives import Objectives
from schedules.rates import NIC, SSD, STORE, STREAM
from schedules.systems.prewarming import BUDGETS
from schedules.traces.changing import during, sped
from schedules.traces.trace import Trace
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

NODES, READY_S = 4, 300.0
MODELS, SHAPE = 20, Shape(1, 384, 8)
DRAM_BYTES, SSD_BYTES, DEVICE_BYTES = 125_000_000, 1_000_000_000, 100_000_000
DISK_BYTES_PER_S = 50e6
TIMES_FASTER = 45.0
BEGIN_S, PART_S = 2 * DAY_S + 8 * HOUR_S, 1.5 * HOUR_S
EVERY_S, HORIZON_S, KEEP_ALIVE_S = 300.0, 900.0, 240.0
MOST_PROMPT, MOST_ANSWER, KV_TOKENS = 64, 16, 1024
TIERS = ("dram", "ssd", "network")


@dataclass(frozen=True)
class Part:
    """Seconds to the first token of each request, as its client saw it, and of how many cold starts the slowest unit came
    from which tier."""

    ttft_s: tuple[float, ...]
    sources: Mapping[str, int]

    def share(self, tier: str) -> float:
        """Of the cold starts."""
        return self.sources.get(tier, 0) / max(1, sum(self.sources.values()))

    @property
    def p95_ttft_s(self) -> float:
        return float(np.quantile(self.ttft_s, 0.95))


def parts(bytes_per_s: float, seed: int) -> tuple[Part, Part]:
    """Without plans, and with them; each on a lab of its own. RuntimeError if a request got no answer."""
    whole = _few(seasons(seed))
    found = []
    for planned in (False, True):
        with _lab(bytes_per_s) as lab:
            checkpoints = _published(lab, whole.models)
            calibrated(lab)
            found.append(asyncio.run(_sent(lab, checkpoints, whole, seed, planned=planned)))
            print(f"{'with' if planned else 'without'} plans: {dict(found[-1].sources)}", file=sys.stderr)
    return found[0], found[1]


@contextmanager
def _lab(bytes_per_s: float) -> Iterator[Lab]:
    node = {"dram_bytes": DRAM_BYTES, "ssd_bytes": SSD_BYTES, "device_bytes": DEVICE_BYTES}
    frontend = {"degree": 1, "keep_alive_s": KEEP_ALIVE_S / TIMES_FASTER, "kv_tokens": KV_TOKENS}
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(
            Path(folder), NODES, (), bytes_per_s, bytes_per_s, node_settings=node, frontends={"front": frontend},
            ready_s=READY_S, disk_bytes_per_s=DISK_BYTES_PER_S,
        ) as lab,
    ):  # fmt: skip
        yield lab


def _few(trace: Trace) -> Trace:
    """The first of its models alone, of prompts and answers that are soon computed."""
    kept = trace.only(trace.model < MODELS, f"the first {MODELS} models", models=trace.models[:MODELS])
    short = {"answer_tokens": MOST_ANSWER, "max_tokens": MOST_ANSWER, "prompt_tokens": MOST_PROMPT}
    return kept.after("short", **{name: np.minimum(getattr(kept, name), most) for name, most in short.items()})


def _published(lab: Lab, names: Sequence[str]) -> dict[str, Checkpoint]:
    store = ModelStore(ObjectStore(f"file://{lab.folder / 'buckets' / BUCKET}"))
    return {name: publish_random(store, name, SHAPE, seed) for seed, name in enumerate(names)}


async def _sent(lab: Lab, checkpoints: Mapping[str, Checkpoint], whole: Trace, seed: int, *, planned: bool) -> Part:
    url = lab.named["front"]
    await asyncio.to_thread(rest, lab, url)
    trace = sped(during(whole, BEGIN_S, BEGIN_S + PART_S), TIMES_FASTER)
    async with ClusterClient(lab.scheduler_address) as client:
        await client.nodes(NODES)
        following = None
        if planned:
            planner = _Planner(client, url, checkpoints, whole)
            await planner.carry_out(planner.plan(BEGIN_S), READY_S)
            following = asyncio.create_task(planner.follow())
        try:
            _, seen = await send(url, trace, seed)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    faults = [each.fault for each in seen if each.fault]
    if faults:
        raise RuntimeError(f"{len(faults)} of {len(seen)} requests got no answer: {faults[0]}")
    await asyncio.sleep(1.0)  # the ledger has the last of them
    return Part(tuple(_ttft(each) for each in seen), Counter(map(slowest, _starts(url))))


def _ttft(seen: Seen) -> float:
    assert seen.ttft_s is not None
    return seen.ttft_s


def _starts(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{url}/admin/cold-starts", params={"limit": 256}, timeout=60).json()[
        "cold_starts"
    ]
    return found


def slowest(start: Mapping[str, Any]) -> str:
    """The tier that the slowest of its units came from."""
    sources = {phase["where"].partition(" from ")[2] for phase in start["phases"] if " from " in phase["where"]}
    kinds = {source if source in TIERS else TIERS[-1] for source in sources}
    return max(kinds, key=TIERS.index)


class _Planner:
    """Makes plans and has them carried out, as `flows.prewarm` does."""

    def __init__(self, client: ClusterClient, url: str, checkpoints: Mapping[str, Checkpoint], whole: Trace) -> None:
        self._client, self._url, self._checkpoints, self._whole = client, url, checkpoints, whole
        wanted = Objectives(None, None, 0, 1, KEEP_ALIVE_S, 0, 1, KV_TOKENS)
        self._models = [Wanted(facts_of(checkpoint), wanted) for checkpoint in checkpoints.values()]
        self._keys = {wanted.model.name: wanted.model.key for wanted in self._models}

    async def follow(self) -> None:
        """A plan every EVERY_S of the trace, from its second on, until nobody wants one any more."""
        begin_s = asyncio.get_running_loop().time() + LEAD_S
        for number in range(1, int(PART_S / EVERY_S)):
            await asyncio.sleep(begin_s + number * EVERY_S / TIMES_FASTER - asyncio.get_running_loop().time())
            plan = await asyncio.to_thread(self.plan, BEGIN_S + number * EVERY_S)
            await self.carry_out(plan, EVERY_S / TIMES_FASTER)

    def plan(self, now_s: float) -> Plan:
        """As of that time of the trace."""
        trace = self._whole
        past = past_of(trace.models, trace.model, np.asarray(trace.at_s), 0.0, now_s)
        forecast = FORECASTERS[DEFAULT].forecast(past, HORIZON_S)
        ground = Ground(_slowed(self._client.view()), self._models, forecast, self._running())
        return make_plan(ground, replace(BUDGETS, device_share=0.0), now_s, EVERY_S)

    async def carry_out(self, plan: Plan, within_s: float) -> None:
        """What is not there by then is given up."""
        for node in self._client.view().nodes:
            await self._client.retain(node.name, *plan.retention(node.name), 2 * within_s)
        try:
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
                for node in self._client.view().nodes:
                    group.create_task(self._stage([each for each in plan.stagings if each.node == node.name], within_s))
        except TimeoutError:
            print("not all was staged before the next plan", file=sys.stderr)

    async def _stage(self, stagings: Sequence[Staging], within_s: float) -> None:
        for each in stagings:
            try:
                checkpoint = self._checkpoints[each.key.name]
                await self._client.bring(each.node, checkpoint, each.units, each.tier, within_s)
            except ClusterError as error:
                print(f"{each.key.name} is not staged on {each.node}: {error}", file=sys.stderr)

    def _running(self) -> dict[ModelKey, list[tuple[str, ...]]]:
        found: dict[ModelKey, list[tuple[str, ...]]] = {}
        for replica in httpx.get(f"{self._url}/admin/status", timeout=60).json()["replicas"]:
            if replica["nodes"]:
                found.setdefault(self._keys[replica["model"]], []).append(tuple(replica["nodes"]))
        return found


def _slowed(view: View) -> View:
    """As the trace's clock has it."""
    nodes = []
    for node in view.nodes:
        slower = {
            name: Rate(rate.mean / TIMES_FASTER, rate.bad / TIMES_FASTER, rate.samples)
            for name, rate in node.rates.items()
            if name in (NIC, SSD, STORE, STREAM)
        }
        nodes.append(replace(node, rates={**node.rates, **slower}))
    return View(tuple(nodes))
