"""A run in the lab, and its log: many models on four nodes, bursts, consolidations, and a node that dies."""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.honesty_clients import Seen, alone, send
from benchmarks.honesty_log import Befell, Log, Sent
from benchmarks.honesty_models import SHAPES, publish_all
from benchmarks.moves_operator import SETTINGS, Operator
from benchmarks.pipeline_lab import calibrated, empty, rest
from benchmarks.report import machine
from cluster.client import ClusterClient
from cluster.model_facts import facts_of
from cluster.wire.phases import Phase
from infra.lab.platform import Lab, run_lab
from schedules.objectives import Objectives
from schedules.traces.lineup import Served
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import Trace
from schedules.world.habits import Misfortune
from serving.cold_start import ColdStart
from storage_tiers.checkpoint import Checkpoint

NODES = 4
READY_S = 300.0
FRONT = "planned"
TASK = "60:0.6/24:0.6"
"""Prompt and answer in tokens, and the sigmas of their logarithms."""
MOST_PROMPT_TOKENS, MOST_TOKENS = 400, 96
ALONE = ((64, 32), (64, 32))
"""Prompt and answer in tokens: of a start, and of whoever finds that up."""
SETTLED_S = 1.0
_OF_PREDICTION = ("ttft_s", "ttft_bad_s", "slowest", "uncorrected_s", "parts")
_OF_MOVE = ("kind", "step", "reason", "why", "handovers", "requests", "pauses_s")


@dataclass(frozen=True)
class Run:
    """What is sent, and to what kind of cluster. Bytes are a node's. The node that is lost is so when `lost_at` of the time
    is over."""

    seed: int = 1
    seconds: float = 400.0
    rate_per_s: float = 0.55
    bursts: int = 4
    burst_requests: int = 10
    burst_s: float = 4.0
    bytes_per_s: float = 25e6
    dram_bytes: int = 360_000_000
    ssd_bytes: int = 500_000_000
    device_bytes: int = 360_000_000
    keep_alive_s: float = 6.0
    kv_tokens: int = 2048
    lost: str = "node-2"
    lost_at: float = 0.55

    @property
    def trace(self) -> Trace:
        lineup = tuple(Served(name, TASK) for name in SHAPES)
        recipe = Recipe(
            lineup, self.rate_per_s, self.seconds, cv=2.0, skew=0.6, bursts=self.bursts,
            burst_requests=self.burst_requests, burst_s=self.burst_s, max_prompt_tokens=MOST_PROMPT_TOKENS,
            max_tokens=MOST_TOKENS,
        )  # fmt: skip
        return synthesise(recipe, self.seed)

    def objectives(self, name: str) -> Objectives:
        """As the front end has them by its settings."""
        return Objectives(None, None, 0, 1, self.keep_alive_s, 0, SHAPES[name].degree, self.kv_tokens)


def record(run: Run) -> Log:
    """The log of a run. LabError if there can be no lab here, RuntimeError if a request got no answer."""
    with _lab(run) as lab:
        checkpoints = publish_all(lab)
        calibrated(lab)
        before = asyncio.run(_before(lab, list(checkpoints.values())))
        return asyncio.run(_recorded(lab, run, checkpoints, before))


@contextmanager
def _lab(run: Run) -> Iterator[Lab]:
    node = {"dram_bytes": run.dram_bytes, "ssd_bytes": run.ssd_bytes, "device_bytes": run.device_bytes}
    frontend = {"policy": "planned", "keep_alive_s": run.keep_alive_s, "kv_tokens": run.kv_tokens, **SETTINGS}
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(
            Path(folder), NODES, (), run.bytes_per_s, node_settings=node, frontends={FRONT: frontend}, ready_s=READY_S,
            models={name: {"degree": shape.degree} for name, shape in SHAPES.items()},
        ) as lab,
    ):  # fmt: skip
        yield lab


async def _before(lab: Lab, every: Sequence[Checkpoint]) -> list[Sent]:
    """Each model is started, asked again while it is up, and started again when it is up no more, all of it alone: by that
    nodes and front end learn how long things take. Then no node has anything. Times are unix seconds."""
    url = lab.named[FRONT]
    asked = [(name, prompt, answer) for name in (*SHAPES, *SHAPES) for prompt, answer in ALONE]
    await asyncio.to_thread(empty, lab, every)
    since_s, seen = await alone(url, asked, seed=0)
    _check(seen)
    await asyncio.to_thread(_at_rest_and_empty, lab, every)
    places = {name: place for place, name in enumerate(SHAPES)}
    return [
        _sent(each, places[name], prompt, answer, since_s)
        for each, (name, prompt, answer) in zip(seen, asked, strict=True)
    ]


def _at_rest_and_empty(lab: Lab, every: Sequence[Checkpoint]) -> None:
    rest(lab, lab.named[FRONT])
    empty(lab, every)


async def _recorded(lab: Lab, run: Run, checkpoints: Mapping[str, Checkpoint], before: Sequence[Sent]) -> Log:
    url, trace = lab.named[FRONT], run.trace
    async with ClusterClient(lab.scheduler_address) as client:
        nodes = (await client.nodes(NODES)).nodes
        load_before = os.getloadavg()
        sending = asyncio.create_task(send(url, trace, run.seed))
        killed_unix_s = await _kill_later(lab, run.lost, run.lost_at * run.seconds)
        begin_unix_s, seen = await sending
    _check(seen)
    await asyncio.sleep(SETTLED_S)
    columns = (trace.model.tolist(), trace.prompt_tokens.tolist(), trace.answer_tokens.tolist())
    sent = [_sent(each, *numbers) for each, *numbers in zip(seen, *columns, strict=True)]
    return Log(
        run=asdict(run),
        machine=machine() | {"load_before": load_before, "load_after": os.getloadavg()},
        nodes=tuple(nodes),
        models=tuple(facts_of(checkpoint) for checkpoint in checkpoints.values()),
        objectives=tuple(run.objectives(name) for name in checkpoints),
        sent=tuple(sorted([*(each._replace(at_s=each.at_s - begin_unix_s) for each in before), *sent])),
        starts=tuple(_since(_cold_start(start), begin_unix_s) for start in reversed(_starts(url))),
        moves=tuple(_moves(url, begin_unix_s)),
        troubles=(Befell(killed_unix_s - begin_unix_s, Misfortune.NODE_LOST.value, run.lost),),
    )


def _sent(seen: Seen, model: int, prompt: int, answer: int, since_s: float = 0.0) -> Sent:
    return Sent(since_s + seen.at_s, model, prompt, answer, seen.ttft_s or 0.0, seen.last_s or 0.0)


async def _kill_later(lab: Lab, node: str, after_s: float) -> float:
    await asyncio.sleep(after_s)
    at_s = time.time()
    lab.network.kill(node)
    return at_s


def _check(seen: Sequence[Seen]) -> None:
    """A run in which a request got no answer is none to compare with."""
    faults = {each.fault for each in seen if each.fault}
    if faults:
        raise RuntimeError(f"{sum(bool(each.fault) for each in seen)} requests got no answer: {'; '.join(faults)}")


def _starts(url: str) -> list[dict[str, Any]]:
    """Newest first."""
    answer = httpx.get(f"{url}/admin/cold-starts", params={"limit": 256}, timeout=60).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["cold_starts"]
    return found


def _cold_start(told: Mapping[str, Any]) -> ColdStart:
    """What the front end told, as it had it itself, but for what else it had considered."""
    arrived_s = told["arrived_at"]
    phases = tuple(
        Phase(each["name"], each["where"], arrived_s + each["start_s"], arrived_s + each["end_s"], each["bytes"])
        for each in told["phases"]
    )
    predicted = told["predicted"] and {key: told["predicted"][key] for key in _OF_PREDICTION}
    return ColdStart(told["model"], told["group"], tuple(told["nodes"]), arrived_s, told["ttft_s"], phases, predicted)


def _since(start: ColdStart, begin_s: float) -> ColdStart:
    """The start by another clock."""
    phases = tuple(
        replace(phase, start_s=phase.start_s - begin_s, end_s=phase.end_s - begin_s) for phase in start.phases
    )
    return replace(start, arrived_s=start.arrived_s - begin_s, phases=phases)


def _moves(url: str, begin_unix_s: float) -> Iterator[dict[str, Any]]:
    """Oldest first."""
    for move in reversed(Operator(url).moves(256)):
        at_s = {key: value - begin_unix_s for key, value in move.items() if key.endswith("_at") and value is not None}
        if at_s.get("ordered_at", -1.0) >= 0.0:
            yield {key: move[key] for key in _OF_MOVE} | at_s
