"""How many replicas a model has, and of which version: some always, more when many ask, new ones for a new version."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, openai_of, post
from tests.real_cluster import RealCluster, run_cluster
from tests.serving.test_failures import DEADLINE_S, PROMPT, replicas, stage_processes, wait_until
from tests.tiny import make_tiny

CONTEXT = 8192
LONG = 4000
MODELS = {
    "kept": {"min_replicas": 1},
    "crowded": {"max_replicas": 2, "kv_tokens": CONTEXT},
    "renewed": {},
}


def publish_tiny(name: str, store: ModelStore, folder: Path, seed: int) -> None:
    """A model that never ends by itself, with a long context."""
    source = make_tiny(
        "llama", folder / f"{name}-{seed}", seed=seed, eos_token_id=None, max_position_embeddings=CONTEXT
    )
    publish(str(source), name, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    found = ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))
    for seed, name in enumerate(MODELS):
        publish_tiny(name, found, tmp_path_factory.mktemp("models"), seed)
    return found


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=2) as running:
        running.url = running.start_frontend(policy="planned", keep_alive_s=1.0, max_degree=1, models=MODELS)
        yield running


def states(url: str, model: str) -> list[object]:
    return sorted(str(replica["state"]) for replica in replicas(url) if replica["model"] == model)


def groups(url: str, model: str) -> list[object]:
    return [r["group"] for r in replicas(url) if r["model"] == model and r["state"] == "serving"]


def complete(url: str, model: str, tokens: int = 8) -> list[int]:
    body = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": tokens, "return_token_ids": True}
    answer = post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


@contextmanager
def streaming(url: str, model: str, tokens: int) -> Iterator[tuple[list[int], "Future[None]", Callable[[], None]]]:
    """A stream in the background: its tokens so far, its end, and how to leave it."""
    seen, left = list[int](), threading.Event()

    def read() -> None:
        with openai_of(url, DEADLINE_S) as client:
            extra = {"return_token_ids": True}
            asked = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": tokens, "extra_body": extra}
            with client.completions.create(stream=True, **asked) as chunks:
                for chunk in chunks:
                    seen.extend(chunk.choices[0].model_extra["token_ids"])
                    if left.is_set():
                        return

    with ThreadPoolExecutor(1) as pool:
        try:
            yield seen, pool.submit(read), left.set
        finally:
            left.set()


def test_a_model_that_shall_always_be_up_is_up_before_anybody_calls_and_comes_back(cluster: RealCluster) -> None:
    """It outlives the time to keep alive, which another model's replica does not; and a stage that is killed."""
    wait_until(lambda: states(cluster.url, "kept") == ["serving"], "a replica that nobody has called")
    (group,) = groups(cluster.url, "kept")
    complete(cluster.url, "crowded")
    wait_until(lambda: not states(cluster.url, "crowded"), "the other model's replica to be reaped")
    assert groups(cluster.url, "kept") == [group]
    (process,) = stage_processes(cluster)
    process.kill()
    wait_until(lambda: groups(cluster.url, "kept") not in ([], [group]), "another replica")
    complete(cluster.url, "kept")
    assert not get(f"{cluster.url}/admin/cold-starts", params={"model": "kept"}).json()["cold_starts"]


def test_a_second_replica_comes_when_the_first_has_not_the_memory_for_all_and_goes_when_idle(
    cluster: RealCluster,
) -> None:
    """The request that does not fit beside the first waits for the second replica, not behind the first."""
    with streaming(cluster.url, "crowded", 8000) as (first, reading, _):
        wait_until(lambda: first, "the first request's tokens")
        (group,) = groups(cluster.url, "crowded")
        with streaming(cluster.url, "crowded", 8000) as (second, _, _):
            wait_until(lambda: second, "the second request's tokens")
            busy = [r["requests"] for r in replicas(cluster.url) if r["model"] == "crowded"]
            assert (busy, reading.done()) == ([1, 1], False)
        wait_until(lambda: groups(cluster.url, "crowded") == [group], "the second replica to be reaped")
        assert not reading.done()
    wait_until(lambda: not states(cluster.url, "crowded"), "the first replica to be reaped")


def test_requests_that_wait_for_a_cold_model_are_spread_over_its_replicas(cluster: RealCluster) -> None:
    with (
        streaming(cluster.url, "crowded", 8000) as (first, _, _),
        streaming(cluster.url, "crowded", 8000) as (second, _, _),
    ):
        wait_until(lambda: first and second, "tokens of both")
        assert len(groups(cluster.url, "crowded")) == 2
    wait_until(lambda: not states(cluster.url, "crowded"), "both to be reaped")


@pytest.mark.parametrize("end", ["left", "killed"])
def test_requests_end_on_the_version_they_began_on_and_new_ones_get_the_new_one(
    cluster: RealCluster, store: ModelStore, tmp_path: Path, end: str
) -> None:
    """A request whose old replica is lost goes on with the weights that it began with, never with others."""
    old = complete(cluster.url, "renewed", LONG)
    publish_tiny("renewed", store, tmp_path, seed=100 + len(end))
    with streaming(cluster.url, "renewed", LONG) as (seen, reading, leave):
        wait_until(lambda: seen, "the first tokens")
        wait_until(lambda: complete(cluster.url, "renewed") != old[:8], "the new version")
        wait_until(lambda: states(cluster.url, "renewed") == ["draining", "serving"], "the old one to drain")
        before = len(seen)
        wait_until(lambda: len(seen) > before, "the old one to go on")
        if end == "left":
            leave()
        else:
            max(stage_processes(cluster), key=lambda process: sum(process.cpu_times()[:2])).kill()
        reading.result(DEADLINE_S)
    assert seen == old[: len(seen)]
    assert end == "left" or len(seen) == LONG
    wait_until(lambda: "draining" not in states(cluster.url, "renewed"), "the old one to end")
    assert complete(cluster.url, "renewed", 100) != old


# ---- models that nobody has asked for before


def cold_starts(url: str, model: str) -> list[dict[str, object]]:
    query = {"model": model}
    found: list[dict[str, object]] = get(f"{url}/admin/cold-starts", params=query, timeout=60).json()["cold_starts"]
    return found


def test_a_model_published_a_moment_ago_answers_and_its_start_is_in_the_ledger(
    cluster: RealCluster, store: ModelStore, tmp_path: Path
) -> None:
    publish_tiny("new", store, tmp_path, 41)
    assert len(complete(cluster.url, "new")) == 8
    (start,) = cold_starts(cluster.url, "new")
    assert start["predicted"] is None or start["predicted"]["ttft_s"] > 0  # type: ignore[index]
    assert float(str(start["ttft_s"])) > 0
    assert len(complete(cluster.url, "new")) == 8
    assert len(cold_starts(cluster.url, "new")) == 1


def test_a_wrong_request_for_a_new_model_leaves_no_replica(
    cluster: RealCluster, store: ModelStore, tmp_path: Path
) -> None:
    """The model is started while its tokenizer is read; only then it is known that the prompt is too long."""
    publish_tiny("vain", store, tmp_path, 42)
    body = {"model": "vain", "prompt": [5] * (CONTEXT + 1), "max_tokens": 1}
    answer = post(f"{cluster.url}/v1/completions", json=body, timeout=DEADLINE_S)
    assert answer.status_code == 400, answer.text
    assert "tokens" in answer.json()["error"]["message"]
    wait_until(lambda: not states(cluster.url, "vain"), "the replica that nobody needs ends")
    assert cold_starts(cluster.url, "vain") == []
    assert len(complete(cluster.url, "vain")) == 8
