"""A front end whose Dask scheduler goes away and comes back."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.real_cluster import run_cluster
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(240)
DEADLINE_S = 60.0


def make_store(folder: Path, *models: str) -> ModelStore:
    store = ModelStore(ObjectStore(f"file://{folder / 'store'}"))
    for seed, name in enumerate(models):
        publish(str(make_tiny("llama", folder / name, seed=seed)), name, store)
    return store


def health(url: str) -> tuple[int, int | None]:
    """Status and number of nodes that /healthz gives."""
    answer = httpx.get(f"{url}/healthz", timeout=DEADLINE_S)
    return answer.status_code, answer.json().get("nodes")


def node_names(url: str) -> list[str]:
    return [node["name"] for node in httpx.get(f"{url}/admin/status", timeout=DEADLINE_S).json()["nodes"]]


def tokens_of(url: str, model: str) -> list[int]:
    body = {"model": model, "prompt": [5, 6, 7], "temperature": 0, "max_tokens": 4, "return_token_ids": True}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.05)


def test_nodes_of_a_scheduler_that_was_replaced_are_forgotten_and_those_that_rejoin_serve(tmp_path: Path) -> None:
    """The Dask client connects to whatever scheduler answers at its address and goes on. The front end so kept the nodes
    of the one before, at addresses where nobody listened any more: it called itself healthy, and every cold request
    failed with 503 after about a minute, until somebody started it again.

    Both nodes end with their scheduler; node-0 rejoins the new one, node-1 never does.
    """
    store = make_store(tmp_path, "warm", "cold")
    with run_cluster(tmp_path, store.objects.url, nodes=2) as cluster:
        url = cluster.start_frontend()
        wait_until(lambda: health(url) == (200, 2), "two nodes")
        first = tokens_of(url, "warm")
        cluster.kill("scheduler")
        cluster.start_scheduler()
        assert cluster.ended("node-0") == 0
        assert cluster.ended("node-1") == 0
        wait_until(lambda: health(url) == (200, 0), "the dead nodes to be forgotten")
        cluster.start_node("node-0")
        wait_until(lambda: node_names(url) == ["node-0"], "the node that rejoins")
        assert tokens_of(url, "warm") == first
        assert len(tokens_of(url, "cold")) == 4


def test_without_its_scheduler_a_front_end_says_so_and_works_again_with_the_next(tmp_path: Path) -> None:
    """The scheduler is stopped in order, which the Dask client does not take for a loss, and is away for a while."""
    store = make_store(tmp_path, "tiny")
    with run_cluster(tmp_path, store.objects.url, nodes=1) as cluster:
        url = cluster.start_frontend()
        wait_until(lambda: health(url) == (200, 1), "the node")
        first = tokens_of(url, "tiny")
        cluster.kill("scheduler", signal.SIGTERM)
        wait_until(lambda: health(url)[0] == 503, "the front end to notice")
        assert cluster.ended("node-0") == 0
        cluster.start_scheduler()
        cluster.start_node("node-9")
        wait_until(lambda: node_names(url) == ["node-9"], "the new node")
        assert tokens_of(url, "tiny") == first
