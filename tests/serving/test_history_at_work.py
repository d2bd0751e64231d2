"""The history behind a front end: written by real requests, found again by the next front end, never in their way."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from firsttoken.ports import free_port
from serving.history.happened import asked
from serving.history.history import History
from serving.history.tables import VERSION, Arrival
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.real_cluster import RealCluster
from tests.tiny import make_tiny

DEADLINE_S = 60.0
START_S = 120.0
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def tiny(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    publish(str(make_tiny("llama", tmp_path_factory.mktemp("model") / "source", seed=41)), "remembered", shared_store)
    return "remembered"


def complete(url: str, model: str, **fields: object) -> httpx.Response:
    body = {"model": model, "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0, **fields}
    return post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)


def cold_starts(url: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = get(f"{url}/admin/cold-starts", timeout=DEADLINE_S).json()["cold_starts"]
    return found


def arrivals(url: str) -> list[Arrival]:
    async def read() -> list[Arrival]:
        history = History(url, keep_days=90.0)
        try:
            return [arrival async for batch in history.arrivals(0.0, 1e12) for arrival in batch]
        finally:
            await history.close()

    return asyncio.run(read())


def test_a_front_end_remembers_what_the_one_before_it_did(
    shared_cluster: RealCluster, tiny: str, tmp_path: Path
) -> None:
    """It is stopped right after the last answer: what was not yet written is written then."""
    database = f"sqlite:///{tmp_path}/history.db"
    url = shared_cluster.start_frontend("first", START_S, history_url=database, max_held_requests=1)
    assert complete(url, tiny, n=2, logit_bias={"2": -100}).status_code == 200
    before = cold_starts(url)
    assert [start["model"] for start in before] == [tiny]
    assert complete(url, tiny, logit_bias={"2": -100}).status_code == 200
    assert complete(url, tiny, prompt=[1] * 600).status_code == 400
    shared_cluster.kill("first", signal.SIGTERM)
    kept = arrivals(database)
    ended = [(a.model, a.prompt_tokens, a.max_tokens, a.generated_tokens, a.outcome, a.cold) for a in kept]
    assert ended == [(tiny, 3, 8, 8, "served", True), (tiny, 3, 4, 4, "served", False)]
    assert kept[0].ttft_s == pytest.approx(before[0]["ttft_s"], abs=0.1)
    assert all(0.0 < arrival.ttft_s <= arrival.last_s for arrival in kept if arrival.ttft_s and arrival.last_s)
    url = shared_cluster.start_frontend("second", START_S, history_url=database)
    try:
        assert cold_starts(url) == before
        told = get(f"{url}/admin/requests", params={"since": 0, "until": 1e11}, timeout=DEADLINE_S).text.splitlines()
        assert [json.loads(line) for line in told] == [*(asked(arrival)._asdict() for arrival in kept), {"requests": 2}]
        since = {"since": kept[1].arrived_s, "until": 1e11}
        assert len(get(f"{url}/admin/requests", params=since, timeout=DEADLINE_S).text.splitlines()) == 2
    finally:
        shared_cluster.kill("second", signal.SIGTERM)


def test_requests_that_are_refused_are_arrivals_too(shared_cluster: RealCluster, tiny: str, tmp_path: Path) -> None:
    """A front end without a cluster refuses all: the demand is remembered for when there is one."""
    database = f"sqlite:///{tmp_path}/history.db"
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    url = shared_cluster.start_frontend("alone", START_S, history_url=database, scheduler_address=nowhere)
    assert complete(url, tiny).status_code == 503
    shared_cluster.kill("alone", signal.SIGTERM)
    assert [arrival.outcome for arrival in arrivals(database)] == ["refused"]


def test_a_database_that_is_not_there_is_in_nobodys_way(shared_cluster: RealCluster, tiny: str) -> None:
    database = f"postgresql://someone@127.0.0.1:{free_port()}/history"
    url = shared_cluster.start_frontend("unrecorded", START_S, history_url=database)
    assert complete(url, tiny).status_code == 200
    assert [start["model"] for start in cold_starts(url)] == [tiny]
    refused = get(f"{url}/admin/requests", params={"since": 0, "until": 1}, timeout=DEADLINE_S)
    assert refused.status_code == 503
    assert "firsttoken_history_dropped_total 0.0" in get(f"{url}/metrics").text
    shared_cluster.kill("unrecorded", signal.SIGTERM)
    assert shared_cluster.log("unrecorded").count("requests go on") == 1


def test_a_front_end_does_not_start_on_the_history_of_another_version(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "history.db")
    database.execute("CREATE TABLE firsttoken_schema (only INTEGER PRIMARY KEY, version INTEGER)")
    database.execute("INSERT INTO firsttoken_schema VALUES (1, 7)")
    database.commit()
    database.close()
    command = [sys.executable, "-m", "firsttoken", "frontend"]
    home = {"FIRSTTOKEN_HOME": str(tmp_path), "FIRSTTOKEN_FRONTEND__PORT": str(free_port())}
    done = subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert f"schema version 7, this firsttoken reads and writes version {VERSION}: run " in done.stderr
    assert "Traceback" not in done.stderr
