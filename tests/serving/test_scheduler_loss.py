"""A front end whose Dask scheduler goes away and comes back: nothing that runs ends, and what is new begins."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, openai_of
from tests.real_cluster import RealCluster, run_cluster
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(240)
DEADLINE_S = 60.0
PROMPT, TOKENS = [5, 6, 7], 600
STREAMS = 3
ENDS, COLD = (signal.SIGKILL, signal.SIGTERM), ("cold", "colder")


def make_store(folder: Path, *models: str) -> ModelStore:
    """Models that never end by themselves."""
    store = ModelStore(ObjectStore(f"file://{folder / 'store'}"))
    for seed, name in enumerate(models):
        source = make_tiny("llama", folder / name, seed=seed, eos_token_id=None, max_position_embeddings=2048)
        publish(str(source), name, store)
    return store


def health(url: str) -> tuple[int, str | None, int | None]:
    """Status, what is said, and number of nodes that /healthz gives."""
    answer = get(f"{url}/healthz", timeout=DEADLINE_S)
    return answer.status_code, answer.json().get("status"), answer.json().get("nodes")


def node_names(url: str) -> list[str]:
    return [node["name"] for node in get(f"{url}/admin/status", timeout=DEADLINE_S).json()["nodes"]]


def streamed(
    url: str, model: str, tokens: int = TOKENS, at_token: Callable[[int], object] = lambda _n: None
) -> list[int]:
    found: list[int] = []
    with openai_of(url, DEADLINE_S) as client:
        stream = client.completions.create(
            model=model, prompt=PROMPT, temperature=0, max_tokens=tokens, stream=True,
            extra_body={"return_token_ids": True},
        )  # fmt: skip
        for chunk in stream:
            found += chunk.choices[0].model_extra["token_ids"]
            at_token(len(found))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.05)


def under_load(cluster: RealCluster, harm: Callable[[], object]) -> list[list[int]]:
    """What streams give during which, well after their beginning, `harm` is done."""
    begun = threading.Barrier(STREAMS + 1, timeout=DEADLINE_S)
    results: list[list[int]] = [[] for _ in range(STREAMS)]

    def stream(number: int) -> None:
        results[number] = streamed(cluster.url, "warm", at_token=lambda count: begun.wait() if count == 20 else None)

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    begun.wait()
    harm()
    for thread in threads:
        thread.join(DEADLINE_S)
    return results


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two nodes and a front end; the last test takes the nodes away."""
    folder = tmp_path_factory.mktemp("cluster")
    store = make_store(folder, "warm", "tiny", *(f"{model}-{signum.name}" for model in COLD for signum in ENDS))
    with run_cluster(folder, store.objects.url, nodes=2) as running:
        running.url = running.start_frontend(max_degree=2)
        wait_until(lambda: health(running.url) == (200, "ok", 2), "two nodes")
        yield running


@pytest.mark.parametrize("signum", ENDS, ids=["killed", "stopped in order"])
def test_streams_go_on_while_the_scheduler_dies_and_comes_back(cluster: RealCluster, signum: signal.Signals) -> None:
    """Every node ended with its scheduler, and with it every replica: all streams broke, and until somebody had started
    the nodes again nothing could be served.

    A model that is cold starts also while it is away; nodes join the next scheduler with all they have.
    """
    url = cluster.url
    expected = streamed(url, "warm")
    assert len(expected) == TOKENS
    cold, colder = (f"{model}-{signum.name}" for model in COLD)

    def harm() -> None:
        cluster.kill("scheduler", signum)
        wait_until(lambda: health(url) == (200, "no scheduler", 2), "the front end to notice")
        assert len(streamed(url, cold, 4)) == 4
        cluster.start_scheduler()

    assert under_load(cluster, harm) == [expected] * STREAMS
    wait_until(lambda: health(url) == (200, "ok", 2), "the next scheduler")
    assert streamed(url, "warm") == expected
    assert len(streamed(url, colder, 4)) == 4
    starts = get(f"{url}/admin/cold-starts", params={"model": "warm"}).json()["cold_starts"]
    assert len(starts) == 1, "no replica was lost"


def test_nodes_that_come_and_go_with_another_scheduler_are_known(cluster: RealCluster) -> None:
    """The Dask client connects to whatever scheduler answers at its address and goes on. The front end so kept nodes of the
    one before, at addresses where nobody listened any more: it called itself healthy, and every cold request failed.

    One node dies while there is no scheduler; another one is new with the next.
    """
    url = cluster.url
    cluster.kill("scheduler")
    cluster.kill("node-1")
    wait_until(lambda: node_names(url) == ["node-0"], "the dead node to be forgotten")
    cluster.start_scheduler()
    cluster.start_node("node-9")
    wait_until(lambda: node_names(url) == ["node-0", "node-9"], "the new node")
    assert len(streamed(url, "tiny", 4)) == 4
    cluster.kill("node-0", signal.SIGTERM)
    wait_until(lambda: node_names(url) == ["node-9"], "the node that was stopped to be forgotten")
    assert len(streamed(url, "tiny", 4)) == 4
