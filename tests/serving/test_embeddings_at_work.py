"""POST /v1/embeddings as OpenAI's own client and plain HTTP see it, over a real cluster and real stages."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from tokenizers.processors import TemplateProcessing

from benchmarks.moves_operator import KEY, Operator
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.cluster.groups import prompts_of
from tests.embedders import make_embedder, pooled_by_hand, without_head
from tests.real_cluster import RealCluster
from tests.serving.test_failures import replicas
from tests.serving.test_scheduler_loss import wait_until
from tests.serving.tokenizers import byte_tokenizer
from tests.storage_tiers.tokenizers import save_tokenizer


@pytest.fixture(scope="module")
def embedder(shared_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    """A tiny Qwen 3 by last token, normalised; its tokenizer ends each text with a token of its own, as Qwen's does."""
    source = make_embedder(tmp_path_factory.mktemp("embedder"), "lasttoken", normalized=True, seed=5, vocab_size=260)
    tokenizer = byte_tokenizer()
    end = tokenizer.token_to_id("<end>")
    tokenizer.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])
    save_tokenizer(source, tokenizer, eos_token="<end>")
    return publish(str(source), "embedder", shared_store), source


def test_openais_client_gets_what_transformers_gives(api: openai.OpenAI, embedder: tuple[Checkpoint, Path]) -> None:
    """In base64, which it asks for by itself, and as numbers; from a cold start on, several at once, texts and tokens."""
    tokenizer, texts = byte_tokenizer(), ["to be", "or not to be, that is the question " * 8]
    tokens = [[*tokenizer.encode(text).ids, tokenizer.token_to_id("<end>")] for text in texts]
    vectors = [row / np.linalg.norm(row) for row in pooled_by_hand(embedder[1], tokens, "last")]
    whole = api.embeddings.create(model="embedder", input=texts)
    numbers = api.embeddings.create(model="embedder", input=texts[0], encoding_format="float")
    by_tokens = api.embeddings.create(model="embedder", input=tokens)
    assert whole.usage.prompt_tokens == whole.usage.total_tokens == sum(map(len, tokens))
    for row, expected in zip(whole.data, vectors, strict=True):
        assert np.allclose(row.embedding, expected, rtol=1e-4, atol=1e-5)
        assert np.linalg.norm(row.embedding) == pytest.approx(1.0, abs=1e-6)
    assert np.allclose(numbers.data[0].embedding, vectors[0], rtol=1e-4, atol=1e-5)
    for row, expected in zip(by_tokens.data, vectors, strict=True):
        assert np.allclose(row.embedding, expected, rtol=1e-4, atol=1e-5), (
            "which others are in its step is mere rounding"
        )


def test_a_pipeline_of_a_model_that_only_makes_vectors_becomes_one_replica_under_its_requests(
    shared_cluster: RealCluster, embedder: tuple[Checkpoint, Path]
) -> None:
    """It stayed a pipeline for ever. Somebody asks all the time, of whom one meets the switch: what it gets is the same."""
    url = shared_cluster.start_frontend(
        "consolidating", max_degree=2, keep_alive_s=30.0, consolidate=True, operator_key=KEY
    )
    inputs = prompts_of(250, (200, 7, 31, 90))
    expected = [row / np.linalg.norm(row) for row in pooled_by_hand(embedder[1], inputs, "last")]
    whole = threading.Event()

    def ask() -> str:
        """How many stages it found."""
        answer = post(f"{url}/v1/embeddings", json={"model": "embedder", "input": inputs}, timeout=60)
        assert answer.status_code == 200, answer.text
        rows = [each["embedding"] for each in answer.json()["data"]]
        assert np.allclose(rows, expected, rtol=1e-4, atol=1e-5)
        return answer.headers["x-firsttoken-degree"]

    def ask_on() -> list[str]:
        found = list[str]()
        while not whole.is_set():
            found.append(ask())
        return found

    assert ask() == "2"
    ask()  # by itself, so that it is seen how late it comes
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask_on) for _ in range(2)]
        try:
            wait_until(
                lambda: [replica["degree"] for replica in replicas(url)] == [1], "the pipeline to be one replica"
            )
        finally:
            whole.set()
        assert all(each.result() for each in asking)
    assert ask() == "1"
    (move,) = Operator(url).moves()
    assert (move["kind"], move["step"], move["requests"]["shifted"]) == ("consolidate", "done", 0)
    assert "gives each vector" in move["reason"]


def test_the_front_end_tells_of_it(frontend: str, api: openai.OpenAI, embedder: tuple[Checkpoint, Path]) -> None:
    api.embeddings.create(model="embedder", input="once")
    assert 'firsttoken_requests_total{model="embedder",outcome="served"}' in get(f"{frontend}/metrics").text
    answer = api.completions.create(model="embedder", prompt="it still speaks", max_tokens=3, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_a_model_without_an_output_matrix_makes_vectors_and_says_nothing(
    api: openai.OpenAI, shared_store: ModelStore, tmp_path: Path
) -> None:
    source = without_head(make_embedder(tmp_path, "mean_tokens", seed=6))
    publish(str(source), "vectors-only", shared_store)
    with pytest.raises(openai.BadRequestError, match="no output matrix") as caught:
        api.completions.create(model="vectors-only", prompt=[5, 6], max_tokens=2)
    assert caught.value.param == "model"
    (row,) = api.embeddings.create(model="vectors-only", input=[5, 6, 7], encoding_format="float").data
    assert np.allclose(row.embedding, pooled_by_hand(source, [[5, 6, 7]], "mean")[0], rtol=1e-4, atol=1e-5)


def test_a_model_that_makes_no_vectors_is_told_so(frontend: str, api: openai.OpenAI, smollm2: Checkpoint) -> None:
    with pytest.raises(openai.BadRequestError, match="does not say how its embeddings are pooled") as caught:
        api.embeddings.create(model="smollm2", input="text")
    assert caught.value.param == "model"
    answer = post(f"{frontend}/v1/embeddings", json={"model": "nobody", "input": "text"}, timeout=30)
    assert answer.status_code == 404
