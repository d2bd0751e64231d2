"""What a front end tells of its decisions: where a model would start and why, and how its predictions came out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.real_cluster import RealCluster
from tests.serving.test_failures import replicas, wait_until
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(240)

DEADLINE_S = 60.0
MODELS = ("explained", "modest")


@pytest.fixture(scope="module")
def url(shared_cluster: RealCluster, shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A front end with our policy; `modest` has objectives of its own."""
    for seed, name in enumerate(MODELS):
        publish(str(make_tiny("llama", tmp_path_factory.mktemp(name) / "source", seed=50 + seed)), name, shared_store)
    own = {"modest": {"max_degree": 1, "kv_tokens": 64, "ttft_s": 30.0}}
    return shared_cluster.start_frontend("explaining", 100, own, "planned", keep_alive_s=0.5, max_degree=3)


def explained(url: str, model: str, **query: object) -> dict[str, Any]:
    found: dict[str, Any] = get(f"{url}/admin/explain/{model}", params=query, timeout=DEADLINE_S).json()
    return found


def start(url: str, model: str) -> None:
    """From cold to cold again."""
    body = {"model": model, "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0}
    assert post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S).status_code == 200
    wait_until(lambda: not replicas(url), "the replica to be reaped")


def measured(url: str) -> bool:
    """Whether every node has told all that a prediction needs."""
    nodes = get(f"{url}/admin/status", timeout=DEADLINE_S).json()["nodes"]
    return all({"nic", "ssd", "decode", "prefill"} <= node["rates"].keys() for node in nodes)


@pytest.fixture(scope="module")
def starts(url: str) -> list[dict[str, Any]]:
    """What is told of two cold starts, newest first; by the second one everything that it needs is measured."""
    start(url, "explained")
    wait_until(lambda: measured(url), "the nodes to measure themselves")
    start(url, "explained")
    found: list[dict[str, Any]] = explained(url, "explained")["cold_starts"]
    return found


def test_every_candidate_is_told_with_what_was_predicted_and_what_ruled_it_out(
    url: str, starts: list[dict[str, Any]]
) -> None:
    now = explained(url, "explained")["now"]
    assert (now["policy"], now["outcome"]) == ("planned", "start")
    assert {candidate["degree"] for candidate in now["candidates"]} == {1, 2, 3}
    (chosen,) = [candidate for candidate in now["candidates"] if candidate["chosen"]]
    assert now["reason"].startswith(f"degree {chosen['degree']}: the fastest")
    for candidate in now["candidates"]:
        assert len(candidate["nodes"]) == candidate["degree"]
        assert 0 < candidate["prediction"]["ttft_s"] <= candidate["prediction"]["ttft_bad_s"]
        assert bool(candidate["ruled_out"]) != candidate["chosen"]


def test_asking_starts_nothing(url: str, starts: list[dict[str, Any]]) -> None:
    assert not replicas(url)


def test_a_start_is_told_with_what_was_predicted_and_decided(url: str, starts: list[dict[str, Any]]) -> None:
    newest = starts[0]
    predicted = newest["predicted"]
    assert newest["prediction_error"] == pytest.approx(newest["ttft_s"] / predicted["ttft_s"] - 1)
    assert {"form group", "fetch", "compute", "correction"} <= predicted["parts"].keys()
    (chosen,) = [candidate for candidate in predicted["decision"]["candidates"] if candidate["chosen"]]
    assert chosen["nodes"] == newest["nodes"]
    assert chosen["prediction"]["ttft_s"] == predicted["ttft_s"]
    assert len(explained(url, "explained", limit=1)["cold_starts"]) == 1


def test_decisions_and_errors_are_counted(url: str, starts: list[dict[str, Any]]) -> None:
    lines = get(f"{url}/metrics", timeout=DEADLINE_S).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['firsttoken_decisions_total{outcome="start",policy="planned"}']) >= 2
    assert float(values["firsttoken_ttft_prediction_error_count"]) >= 1


def test_a_model_can_have_objectives_of_its_own(url: str) -> None:
    report = explained(url, "modest")
    assert (report["objectives"]["max_degree"], report["objectives"]["ttft_s"]) == (1, 30.0)
    assert {candidate["degree"] for candidate in report["now"]["candidates"]} == {1}
    body = {"model": "modest", "prompt": [5, 6, 7], "max_tokens": 70}
    refused = post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
    assert refused.status_code == 400
    assert "more than the 64 tokens of KV cache" in refused.json()["error"]["message"]
    body["model"] = "explained"
    assert post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S).status_code == 200


def test_a_model_that_is_not_published_is_not_found(url: str) -> None:
    answer = get(f"{url}/admin/explain/absent", timeout=DEADLINE_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_person_asks_at_the_terminal(url: str, starts: list[dict[str, Any]], tmp_path: Path) -> None:
    port = url.rpartition(":")[2]
    settings = {"FIRSTTOKEN_HOME": str(tmp_path), "FIRSTTOKEN_FRONTEND__PORT": port, "COLUMNS": "200"}

    def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "firsttoken", "explain", *arguments]
        return subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=DEADLINE_S
        )

    told = explained(url, "explained")["cold_starts"]
    shown = ask("explained").stdout
    assert re.match(r"explained would start on node-\d.* now \(planned\): degree \d: the fastest", shown)
    assert f" {told[0]['ttft_s']:.2f} s" in re.sub(" +", " ", shown)
    assert json.loads(ask("explained", "--json").stdout)["cold_starts"] == told
    assert "The model 'absent' does not exist (HTTP 404)" in ask("absent").stderr
