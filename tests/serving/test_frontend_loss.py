"""A front end that is killed under load: its connections are gone, and nothing else. The next one finds what runs."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.asking import get
from tests.real_cluster import RealCluster, run_cluster
from tests.serving.test_scheduler_loss import DEADLINE_S, health, make_store, streamed, wait_until

pytestmark = pytest.mark.timeout(240)
LONG = 1500


def groups(url: str) -> dict[str, str]:
    """The group of each model's replica that serves."""
    replicas = get(f"{url}/admin/status", timeout=DEADLINE_S).json()["replicas"]
    return {replica["model"]: replica["group"] for replica in replicas if replica["state"] == "serving"}


def starts(url: str) -> list[str]:
    """The groups of all cold starts that are known of."""
    found = get(f"{url}/admin/cold-starts", timeout=DEADLINE_S).json()["cold_starts"]
    return [start["group"] for start in found]


def held_reserved(url: str) -> list[int]:
    nodes = get(f"{url}/admin/status", timeout=DEADLINE_S).json()["nodes"]
    return [node["device_reserved_bytes"] for node in nodes]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two nodes; each test has front ends of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with run_cluster(folder, make_store(folder, "one", "two").objects.url, nodes=2) as running:
        yield running


def test_a_front_end_that_ends_in_order_leaves_nothing_to_be_found(cluster: RealCluster) -> None:
    url = cluster.start_frontend()
    other = cluster.start_frontend("other")
    wait_until(lambda: health(url) == (200, "ok", 2) and health(other) == (200, "ok", 2), "two nodes")
    streamed(url, "one", 4)
    assert not groups(other), "what has an owner is nobody else's"
    cluster.kill("frontend", signal.SIGTERM)
    wait_until(lambda: held_reserved(other) == [0, 0], "its groups to end")
    assert not groups(other)
    cluster.kill("other", signal.SIGTERM)


def test_the_next_front_end_adopts_what_runs(cluster: RealCluster, tmp_path: Path) -> None:
    """Every replica ran on without anybody who could ask of it, until its lease had run out; meanwhile each model was
    started once more beside it, if there was room at all.

    Who asks while groups are still looked for waits for them, and starts nothing; history is there as it was.
    """
    history = f"sqlite:///{tmp_path / 'history.sqlite'}"
    url = cluster.start_frontend(max_degree=2, history_url=history)
    wait_until(lambda: health(url) == (200, "ok", 2), "two nodes")
    expected = streamed(url, "one")
    streamed(url, "two", 4)
    before, known = groups(url), starts(url)
    assert before.keys() == {"one", "two"}
    reserved = held_reserved(url)
    begun, broken = threading.Event(), list[BaseException]()

    def load() -> None:
        try:
            streamed(url, "one", LONG, lambda _count: begun.set())
        except (openai.APIError, httpx.HTTPError) as error:
            broken.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    assert begun.wait(DEADLINE_S)
    time.sleep(1.2)  # what it has learned is written behind, once a second
    cluster.kill("frontend")
    thread.join(DEADLINE_S)
    assert broken, "its connections end with it"

    url = cluster.start_frontend("next", max_degree=2, history_url=history)
    assert streamed(url, "one") == expected
    assert groups(url)["one"] == before["one"]
    wait_until(lambda: groups(url) == before, "all that ran to be found")
    assert streamed(url, "two", 4) == streamed(url, "two", 4)
    assert sorted(starts(url)) == sorted(known), "no cold start since, and those of before are known"
    assert held_reserved(url) == reserved
