"""The flows as they run in production: a real Prefect server, real nodes, runs as processes of the flow service."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from cluster.wire.orders import OF_NODE, OF_STORE
from firsttoken.settings import Settings
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from tests.flows.front_end_double import FrontEndDouble
from tests.flows.real_service import AUTH, MODEL, NODES, Components, PrefectApi, held, rates, within

pytestmark = pytest.mark.timeout(300)

ARTIFACT = "bring-tiny-llama-1-0"


def test_a_scheduled_run_stages_the_model_on_every_node(
    settings: Settings, checkpoint: Checkpoint, prefect: PrefectApi
) -> None:
    """Nobody triggers anything: the schedule does, and the nodes themselves say that they hold the units."""
    run = within(60, prefect.scheduled_run("prewarm"))
    within(10, prefect.pause("prewarm"))
    rows = within(10, prefect.table(ARTIFACT, run))
    assert [row["node"] for row in rows] == list(NODES)
    for row in rows:
        assert (row["model"], row["tier"], row["outcome"]) == (MODEL, "ssd", "brought")
        assert row["units"] == len(checkpoint.units)
        assert row["fetched_bytes"] + row["present_bytes"] == checkpoint.size_bytes
    assert within(30, held(settings, NODES)) == {(node, unit.digest) for node in NODES for unit in checkpoint.units}


def test_what_is_there_is_not_fetched_again(checkpoint: Checkpoint, prefect: PrefectApi) -> None:
    parameters = {"models": [MODEL], "nodes": ["node-2"], "units": ["embed"]}
    within(60, prefect.scheduled_run("prewarm"))
    run = within(60, prefect.run("bring", parameters))
    (row,) = within(10, prefect.table(ARTIFACT, run))
    assert (row["node"], row["tier"], row["units"]) == ("node-2", "ssd", 1)
    assert (row["fetched_bytes"], row["present_bytes"]) == (0, checkpoint.unit("embed").size_bytes)


def test_where_nobody_asked_for_anything_there_is_no_plan_and_that_is_said(prefect: PrefectApi) -> None:
    run = within(60, prefect.scheduled_run("prewarm"))
    page = within(10, prefect.page("prewarm-forecast", run))
    assert page.startswith("Nothing is planned: no request came for any model")


def test_a_model_that_cannot_be_brought_fails_the_run_and_stands_in_the_table(prefect: PrefectApi) -> None:
    run = within(90, prefect.run("bring", {"models": ["absent"], "nodes": ["node-1"]}))
    assert run["state_type"] == "FAILED"
    (row,) = within(10, prefect.table("bring-absent", run))
    assert row["outcome"].startswith("Missing: no model 'absent'")


def test_a_front_end_that_follows_no_plan_is_a_note_and_staging_goes_on(
    front_end: FrontEndDouble, checkpoint: Checkpoint, prefect: PrefectApi
) -> None:
    within(60, prefect.scheduled_run("prewarm"))
    within(10, prefect.pause("prewarm"))
    asked = {"model": MODEL, "prompt_tokens": 3, "max_tokens": 2, "answer_tokens": 2}
    front_end.requests = [asked | {"at_s": time.time() - 90.0 * ago} for ago in range(1, 9)]
    front_end.follows = False
    try:
        run = within(90, prefect.run("prewarm", {"models": [MODEL], "nodes": ["node-1"]}))
    finally:
        front_end.requests, front_end.follows = [], True
    assert run["state_type"] == "COMPLETED", run["state"]
    page = within(10, prefect.page("prewarm-forecast", run))
    assert (
        "The front end does not know of the plan, and keeps no replicas up for it: the front end cannot do it now"
        in page
    )
    assert MODEL in page
    (row,) = within(10, prefect.table(ARTIFACT, run))
    assert (row["node"], row["outcome"]) == ("node-1", "brought")


def test_publishing_through_prefect(prefect: PrefectApi, source: Path, store: ModelStore) -> None:
    run = within(90, prefect.run("publish", {"source": str(source), "name": "again", "dtype": "bfloat16"}))
    assert run["state_type"] == "COMPLETED", run["state"]
    (row,) = within(10, prefect.table("publish-again", run))
    checkpoint = store.open("again")
    assert (row["version"], row["dtype"], row["bytes"]) == (checkpoint.version, "bfloat16", checkpoint.size_bytes)


def test_calibrating_through_prefect(settings: Settings, checkpoint: Checkpoint, prefect: PrefectApi) -> None:
    """Every node measures what does not need a GPU, and says so from then on."""
    run = within(120, prefect.run("calibrate", {}))
    assert run["state_type"] == "COMPLETED", run["state"]
    rows = within(10, prefect.table("calibrate-rates", run))
    for node in NODES:
        measured = {row["rate"]: row for row in rows if row["node"] == node}
        assert {*OF_NODE, *OF_STORE} <= measured.keys()
        assert all(row["mean"] > 0 and row["bad"] > 0 and row["samples"] > 0 for row in measured.values())
    reported = within(30, rates(settings, NODES))
    assert all({*OF_NODE, *OF_STORE} <= reported[node].keys() for node in NODES)


def test_calibrating_at_the_command_line_without_prefect_and_with_it(
    settings: Settings, checkpoint: Checkpoint, flow_service: Components
) -> None:
    """With a server that answers the flow runs there; at a port where none is, the same is done without."""
    for port in (str(settings.prefect.port), "1"):
        command = [sys.executable, "-m", "firsttoken", "calibrate", "--json"]
        config = {"FIRSTTOKEN_CONFIG": str(settings.run_dir / "settings.json"), "FIRSTTOKEN_PREFECT__PORT": port}
        done = subprocess.run(command, env=os.environ | config, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert {row["node"] for row in found["rates"]} == set(NODES)
        assert "2 nodes together read" in found["store"]
        assert found["failures"] == []


TYPES = """
[small]
price_per_h = 1
device_bytes = "100MB"
dram_bytes = "10MB"
ssd_bytes = "10MB"
rates = {nic = 1e6, ssd = 1e7, decode = 1e9, prefill = 1e11, formed.1 = 0.3}
"""


@pytest.mark.timeout(480)
def test_planning_through_prefect(settings: Settings, checkpoint: Checkpoint, prefect: PrefectApi) -> None:
    """Of the model that is published, by words that a person types; the files are where the page says."""
    within(60, prefect.scheduled_run("prewarm"))
    within(10, prefect.pause("prewarm"))
    types = settings.run_dir / "types.toml"
    types.write_text(TYPES)
    parameters = {
        "node_types": str(types), "models": MODEL, "rate": "0.2", "duration": "2min", "slo_ttft": "5s", "most_machines": 2,
        "dram": "1", "ssd": "1", "jobs": 2, "degree": 1, "name": "small",
    }  # fmt: skip
    run = within(240, prefect.run("plan_capacity", parameters))
    assert run["state_type"] == "COMPLETED", run["state"]
    page = within(10, prefect.page("plan-capacity-small", run))
    assert "small for $" in page
    assert "data:image/svg+xml;base64," in page
    for name in ("small.html", "small.json", "small-small.toml"):
        assert f"`{settings.plans_dir / name}`" in page
        assert (settings.plans_dir / name).is_file()
    refused = within(60, prefect.run("plan_capacity", parameters | {"node_types": "tpu=1"}))
    assert refused["state_type"] == "FAILED"
    assert "nothing is known of machines 'tpu'" in refused["state"]["message"]


_WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    "foreign",
    [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}],
    ids=["another site's page", "a name that leads here", "a page without a name"],
)
def test_foreign_pages_get_nothing_from_prefect(prefect: PrefectApi, foreign: dict[str, str]) -> None:
    """Any web page could make a deployment with a shell step: every origin was allowed, and a POST that says nothing of its
    content, which browsers send without asking, was taken for JSON."""
    with httpx.Client(trust_env=False, auth=AUTH, timeout=60) as client:
        asked = [
            client.post(f"{prefect.url}/flows/", json={"name": "evil"}, headers=foreign),
            client.post(f"{prefect.url}/flows/", content=b'{"name": "evil"}', headers=foreign),
            client.post(f"{prefect.url}/flows/filter", headers=foreign),
            client.get(f"{prefect.url}/events/in", headers=_WEBSOCKET | foreign),
        ]
        mine = client.post(f"{prefect.url}/flows/", json={"name": "mine"}, headers={"Origin": prefect.url[:-4]})
    assert [answer.status_code for answer in asked] == [403] * len(asked)
    assert not any("access-control-allow-origin" in answer.headers for answer in asked)
    assert mine.is_success


def test_prefect_tells_nothing_to_who_does_not_know_the_password(settings: Settings, prefect: PrefectApi) -> None:
    with httpx.Client(trust_env=False, timeout=60) as client:
        for auth in (None, ("firsttoken", "a guess")):
            assert client.post(f"{prefect.url}/flows/filter", json={}, auth=auth).status_code == 401
    logs = [path.read_text() for path in settings.logs_dir.glob("*.log")]
    assert not [text for text in logs if AUTH[1] in text]
