"""A real front end and what hostile models and clients send it; no node is connected, so what is right is told 503."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.real_cluster import RealCluster, run_cluster
from tests.serving.test_prompts import LOOPS
from tests.serving.tokenizers import CHATML, byte_files
from tests.tiny import make_tiny

NO_NODE = (503, None)
TEMPLATE_S = 1.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    folder: Path = tmp_path_factory.mktemp("front-door")
    store = ModelStore(ObjectStore(f"file://{folder / 'store'}"))
    source = make_tiny("llama", folder / "source", vocab_size=257)
    for name, template in (("good", CHATML), ("loops", LOOPS), ("left", LOOPS)):
        for file, data in byte_files(chat_template=template).items():
            (source / file).write_bytes(data)
        publish(str(source), name, store)
    with run_cluster(folder, store.objects.url, nodes=0) as running:
        running.url = running.start_frontend(text_timeout_s=5 * TEMPLATE_S)
        yield running


async def _ask(cluster: RealCluster, path: str, **body: Any) -> tuple[int, str | None]:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as client:
        answer = await client.post(f"/v1/{path}", json={"max_tokens": 1, **body})
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json()["error"]["param"]


async def _chat(cluster: RealCluster, model: str) -> tuple[int, str | None]:
    return await _ask(cluster, "chat/completions", model=model, messages=[{"role": "user", "content": "hi"}])


async def test_a_models_looping_template_is_its_own_affair(cluster: RealCluster) -> None:
    """It took the threads that all models share: no model's requests came through for minutes."""
    for model in ("good", "loops"):  # so that both are open
        await _ask(cluster, "completions", model=model, prompt="x")
    began_s = time.monotonic()
    looping = [asyncio.ensure_future(_chat(cluster, "loops")) for _ in range(12)]
    await asyncio.sleep(0.1)
    for _ in range(3):
        assert await _chat(cluster, "good") == NO_NODE
    assert not all(asked.done() for asked in looping)
    refused = await asyncio.gather(*looping)
    assert sorted(refused) == [(400, "model")] * 2 + [(503, None)] * 10
    assert time.monotonic() - began_s < 20


def test_a_front_end_is_a_small_process(cluster: RealCluster) -> None:
    """Configurations are read with transformers, which brought torch: three seconds of each start, and 300 MB."""
    assert not [
        line.path for line in psutil.Process(cluster.processes["frontend"].pid).memory_maps() if "torch" in line.path
    ]


async def test_prompts_of_clients_that_have_left_are_not_worked_on(cluster: RealCluster) -> None:
    """Only the one that was being worked on has its process ended: two would have been enough for a pause."""
    await _ask(cluster, "completions", model="left", prompt="x")
    asked = [asyncio.ensure_future(_chat(cluster, "left")) for _ in range(6)]
    await asyncio.sleep(0.2)
    for leaving in asked:
        leaving.cancel()
    assert await _chat(cluster, "left") == (400, "model")


async def test_a_prompt_of_megabytes_costs_neither_time_nor_memory(cluster: RealCluster) -> None:
    """Eight prompts of 8 MB once took 7 GB."""
    front_end = psutil.Process(cluster.processes["frontend"].pid)
    before_bytes = front_end.memory_info().rss
    prompts = [{"prompt": ["a b " * 250_000] * 2}, {"prompt": "x" * 8_000_000}, {"prompt": "x" * 9_000_000}]
    answers = [await _ask(cluster, "completions", model="good", **fields) for fields in prompts]
    assert answers == [(400, "prompt"), (400, "prompt"), (413, None)]
    assert front_end.memory_info().rss - before_bytes < 120_000_000


async def test_a_prompt_of_just_the_context_is_no_bad_request(cluster: RealCluster) -> None:
    assert await _ask(cluster, "completions", model="good", prompt="x" * 511) == NO_NODE
    assert await _ask(cluster, "completions", model="good", prompt="x" * 512) == (400, "prompt")


def test_a_front_end_that_is_stopped_leaves_no_process(cluster: RealCluster) -> None:
    below = psutil.Process(cluster.processes["frontend"].pid).children(recursive=True)
    assert len(below) >= 2
    cluster.kill("frontend", signal.SIGTERM)
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
