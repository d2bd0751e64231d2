"""The prewarm flow as it runs in production: scheduled by a real Prefect server, on real nodes, with nobody asking."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.client import ClusterClient
from firsttoken import ready
from firsttoken.components import prefect_environment
from firsttoken.local import FLOWS_READY_FILE
from firsttoken.ports import assign_ports
from firsttoken.settings import Settings, load_settings, write_settings
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore, ObjectStore
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(180)

MODEL = "tiny/Llama-1.0"
ARTIFACT = "prewarm-tiny-llama-1-0"
EVERY_S = 4.0
NODES = ("node-1", "node-2")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a platform of its own: temporary home, free ports, a prewarm every few seconds."""
    environment = {
        "FIRSTTOKEN_HOME": str(tmp_path / "home"),
        "FIRSTTOKEN_FRONTEND__PORT": "0",
        "FIRSTTOKEN_PREFECT__PORT": "0",
        "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": "0",
        "FIRSTTOKEN_CLUSTER__DASHBOARD_PORT": "0",
        "FIRSTTOKEN_NODE__DRAM_BYTES": "64MiB",
        "FIRSTTOKEN_NODE__POOL_SIZE": "0",
        "FIRSTTOKEN_PREWARM__EVERY_S": str(EVERY_S),
        "FIRSTTOKEN_PREWARM__MODELS": MODEL,
    }
    settings = assign_ports(load_settings(environment=environment))
    write_settings(settings, settings.run_dir / "settings.json")
    return settings


@pytest.fixture
def checkpoint(tmp_path: Path, settings: Settings) -> Checkpoint:
    """A tiny model in the store."""
    folder = make_tiny("llama", tmp_path / "source")
    return publish(str(folder), MODEL, ModelStore(ObjectStore(settings.store.url)))


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts components as the supervisor does; all end with the test."""
    started: list[subprocess.Popen[bytes]] = []
    settings.logs_dir.mkdir(parents=True)

    def start_component(*command: str) -> "subprocess.Popen[bytes]":
        config = settings.run_dir / "settings.json"
        with open(settings.logs_dir / f"{command[-1]}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "firsttoken", *command, "--config", str(config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start_component
    for process in reversed(started):
        process.terminate()
        try:
            process.wait(20)
        finally:
            with_group_gone(process.pid)


def with_group_gone(group: int) -> None:
    """Kill what a component left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def within(seconds: float, condition: Awaitable[Any]) -> Any:
    """The condition's value, or TimeoutError."""

    async def wait() -> Any:
        return await asyncio.wait_for(condition, seconds)

    return asyncio.run(wait())


async def scheduled_run_completed(api_url: str) -> dict[str, Any]:
    """The first run of prewarm that the schedule made and that completed."""
    wanted = {"flows": {"name": {"any_": ["prewarm"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    async with httpx.AsyncClient(base_url=api_url, trust_env=False) as client:
        while True:
            answer = await client.post("/flow_runs/filter", json=wanted)
            for run in answer.raise_for_status().json():
                assert run["state_type"] not in ("FAILED", "CRASHED"), run["state"]
                if run["state_type"] == "COMPLETED":
                    return dict(run)
            await asyncio.sleep(0.5)


def test_a_scheduled_run_stages_the_model_on_every_node(
    settings: Settings, checkpoint: Checkpoint, start: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """Nobody triggers anything: the schedule does, and the nodes hold the units afterwards."""
    start("prefect")
    start("scheduler")
    for node in NODES:
        start("node", "--name", node)
    assert within(60, held(settings)) == set()
    start("flows")
    within(90, ready.file_there(settings.run_dir / FLOWS_READY_FILE))

    run = within(60, scheduled_run_completed(settings.prefect.api_url))

    assert run["auto_scheduled"] is True
    rows = table(settings.prefect.api_url, run["id"])
    assert [row["node"] for row in rows] == list(NODES)
    for row in rows:
        assert row["outcome"] == "staged"
        assert row["fetched_bytes"] + row["present_bytes"] == checkpoint.size_bytes
        assert row["units"] == len(checkpoint.units)
    assert within(30, held(settings)) == {(node, unit.digest, "ssd") for node in NODES for unit in checkpoint.units}


def table(api_url: str, flow_run: str) -> list[dict[str, Any]]:
    """The table artifact that the run left, read through Prefect's API."""
    body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}, "key": {"any_": [ARTIFACT]}}}
    answer = httpx.post(f"{api_url}/artifacts/filter", json=body, trust_env=False).raise_for_status().json()
    assert len(answer) == 1
    assert answer[0]["type"] == "table"
    data = answer[0]["data"]
    if isinstance(data, str):
        import json

        return list(json.loads(data))
    return list(data)


async def held(settings: Settings) -> set[tuple[str, str]]:
    """What the nodes, once all are there, say they hold: node and digest."""
    async with ClusterClient(settings.scheduler_address) as client:
        view = await client.nodes(minimum=len(NODES), timeout_s=50)
        return {(node.name, digest) for node in view.nodes for digest in node.units}


def test_flows_learn_of_prefect_from_the_settings(settings: Settings) -> None:
    """No setting of the person's own Prefect leaks in."""
    environment = prefect_environment(settings)
    assert environment["PREFECT_API_URL"] == f"http://127.0.0.1:{settings.prefect.port}/api"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
