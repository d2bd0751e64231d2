"""What clients see when things break: a stage killed under a stream, a node gone, nobody there, a client who leaves."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import NO_AUTHORITIES, get, openai_of
from tests.real_cluster import RealCluster, run_cluster
from tests.reference import greedy, load_reference
from tests.tiny import make_tiny

PROMPT = [5, 6, 7]
LONG = 300
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))


@pytest.fixture(scope="module")
def reference_tokens(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    source = make_tiny("llama", tmp_path_factory.mktemp("model") / "source", seed=31)
    publish(str(source), "tiny", store)
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    return greedy(reference, PROMPT, LONG)


@pytest.fixture(scope="module")
def cluster(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two nodes of one's own, to be harmed; `hurt` is a front end with short patience."""
    with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=2) as running:
        running.url = running.start_frontend(keep_alive_s=2.0, max_held_requests=3, start_timeout_s=60.0)
        yield running


def stage_processes(cluster: RealCluster) -> list[psutil.Process]:
    """The stage processes that serve now: those that talk to a neighbour or the front end."""
    nodes = [name for name in cluster.processes if name.startswith("node")]
    return [stage for name in nodes for stage in cluster.stages(name) if talks(stage)]


def talks(process: psutil.Process) -> bool:
    """Whether it has a connection to another; one that waits in a pool listens only."""
    try:
        return any(line.status == psutil.CONN_ESTABLISHED for line in process.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False


def completion(url: str, **fields: object) -> dict[str, object]:
    body = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": LONG, "return_token_ids": True, **fields}
    with httpx.Client(verify=NO_AUTHORITIES, timeout=DEADLINE_S) as client:
        answer = client.post(f"{url}/v1/completions", json=body)
        return {"status": answer.status_code, "headers": answer.headers, **answer.json()}


def streamed_tokens(url: str, on_token: object = None, **fields: object) -> list[int]:
    tokens: list[int] = []
    with openai_of(url, DEADLINE_S) as client:
        body = {"return_token_ids": True, "top_k": 0}
        asked = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": LONG, "extra_body": body, **fields}
        for chunk in client.completions.create(stream=True, **asked):
            tokens += chunk.choices[0].model_extra["token_ids"]
            if on_token is not None:
                on_token(len(tokens))
    return tokens


def wait_until(condition: object, what: str) -> None:
    for _ in range(int(DEADLINE_S * 20)):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def replicas(url: str) -> list[dict[str, object]]:
    return get(f"{url}/admin/status", timeout=DEADLINE_S).json()["replicas"]


def nodes(url: str) -> list[dict[str, object]]:
    return get(f"{url}/admin/status", timeout=DEADLINE_S).json()["nodes"]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_stream_goes_on_when_a_stage_dies_or_hangs(
    cluster: RealCluster, reference_tokens: list[int], signum: signal.Signals
) -> None:
    """The client sees every token once, as if nothing had happened."""

    def kill_one(count: int) -> None:
        if count == 20:
            busy = max(stage_processes(cluster), key=lambda process: sum(process.cpu_times()[:2]))
            busy.send_signal(signum)

    tokens = streamed_tokens(cluster.url, kill_one)
    expected = reference_tokens[: reference_tokens.index(2) + 1] if 2 in reference_tokens else reference_tokens
    assert tokens == expected
    assert 'firsttoken_replays_total{model="tiny"}' in get(f"{cluster.url}/metrics").text


def test_what_changes_the_odds_goes_on_as_if_nothing_had_happened(cluster: RealCluster, endless: str) -> None:
    """What was generated before a stage died is penalised as before, the prompt too, and no log probability is lost."""
    asked = {
        "model": endless, "prompt": PROMPT * 20, "max_tokens": 120, "temperature": 1.0, "seed": 3, "logprobs": 2,
        "presence_penalty": 1.0, "frequency_penalty": 0.3, "repetition_penalty": 1.4, "min_p": 0.001,
        "logit_bias": {"6": 4, "9": -100},
    }  # fmt: skip
    wait_until(lambda: not replicas(cluster.url), "the other models' replicas to be reaped")
    replays = replays_of(cluster.url, endless)
    (undisturbed,) = completion(cluster.url, **asked)["choices"]
    assert replays_of(cluster.url, endless) == replays
    tokens: list[int] = []
    told: list[float] = []
    with openai_of(cluster.url, DEADLINE_S) as client:
        extensions = {name: asked.pop(name) for name in ("repetition_penalty", "min_p")} | {"return_token_ids": True}
        for chunk in client.completions.create(stream=True, **asked, extra_body=extensions):
            (choice,) = chunk.choices
            tokens += choice.model_extra["token_ids"]
            told += choice.logprobs.token_logprobs
            assert choice.logprobs.tokens == [f"token_id:{token}" for token in choice.model_extra["token_ids"]]
            if len(tokens) == 20:
                max(stage_processes(cluster), key=lambda process: sum(process.cpu_times()[:2])).kill()
    assert replays_of(cluster.url, endless) == replays + 1
    assert tokens == undisturbed["token_ids"]
    assert told == pytest.approx(undisturbed["logprobs"]["token_logprobs"], abs=1e-4)
    assert len(told) == 120


def replays_of(url: str, model: str) -> float:
    lines = get(f"{url}/metrics", timeout=DEADLINE_S).text.splitlines()
    counted = [line for line in lines if line.startswith(f'firsttoken_replays_total{{model="{model}"}}')]
    return float(counted[0].rpartition(" ")[2]) if counted else 0.0


@pytest.fixture(scope="module")
def endless(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that never ends by itself and has a long context."""
    folder = tmp_path_factory.mktemp("endless") / "source"
    publish(str(make_tiny("llama", folder, eos_token_id=None, max_position_embeddings=8192)), "endless", store)
    return "endless"


def test_a_client_that_leaves_stops_its_generation(cluster: RealCluster, endless: str) -> None:
    class Left(Exception):
        pass

    def leave(count: int) -> None:
        if count == 3:
            raise Left

    with pytest.raises(Left):
        streamed_tokens(cluster.url, leave, model=endless, max_tokens=8000)
    wait_until(lambda: all(replica["requests"] == 0 for replica in replicas(cluster.url)), "the request to end")
    cancelled = 'model="endless",outcome="cancelled"'
    wait_until(lambda: cancelled in get(f"{cluster.url}/metrics").text, "the cancelled request to be counted")


def test_a_client_that_gives_up_waiting_for_a_whole_answer_stops_it_too(cluster: RealCluster, endless: str) -> None:
    body = {"model": endless, "prompt": PROMPT, "max_tokens": 8000}
    patience = httpx.Timeout(DEADLINE_S, read=0.5)
    with httpx.Client(verify=NO_AUTHORITIES, timeout=patience) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{cluster.url}/v1/completions", json=body)
    wait_until(lambda: all(replica["requests"] == 0 for replica in replicas(cluster.url)), "the request to end")


def test_an_idle_replica_goes_and_the_next_request_starts_it_again(
    cluster: RealCluster, reference_tokens: list[int]
) -> None:
    assert completion(cluster.url, max_tokens=5)["status"] == 200
    wait_until(lambda: not replicas(cluster.url), "the replica to be reaped")
    wait_until(lambda: not any(node["device_reserved_bytes"] for node in nodes(cluster.url)), "the nodes to report it")
    answer = completion(cluster.url, max_tokens=5)
    assert answer["choices"][0]["token_ids"] == reference_tokens[:5]


def test_one_start_serves_all_who_wait_and_more_than_the_queue_holds_are_refused(
    cluster: RealCluster, reference_tokens: list[int]
) -> None:
    wait_until(lambda: not replicas(cluster.url), "the replica to be reaped")
    before = cold_starts(cluster.url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: completion(cluster.url, max_tokens=5), range(8)))
    served = [answer for answer in answers if answer["status"] == 200]
    refused = [answer for answer in answers if answer["status"] == 429]
    assert len(served) + len(refused) == 8
    assert len(served) >= 3
    assert all(answer["choices"][0]["token_ids"] == reference_tokens[:5] for answer in served)
    assert all(int(answer["headers"]["retry-after"]) >= 1 for answer in refused)
    assert cold_starts(cluster.url) == before + 1


def cold_starts(url: str) -> int:
    return len(get(f"{url}/admin/cold-starts", params={"model": "tiny", "limit": 256}).json()["cold_starts"])


def test_damaged_weights_are_an_error_and_never_an_answer(
    cluster: RealCluster, store: ModelStore, tmp_path: Path
) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source", seed=77)), "damaged", store)
    path = Path(store.objects.path(store.unit_key("damaged", checkpoint.unit("layer.0001"))))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    answer = completion(cluster.url, model="damaged", max_tokens=3)
    assert answer["status"] == 503
    assert "layer.0001" in answer["error"]["message"]


def test_a_node_that_dies_is_forgotten_and_requests_go_on_with_the_rest(
    cluster: RealCluster, reference_tokens: list[int]
) -> None:
    killed = threading.Event()

    def kill_node(count: int) -> None:
        if count == 10 and not killed.is_set():
            killed.set()
            cluster.kill("node-1")

    tokens = streamed_tokens(cluster.url, kill_node, max_tokens=60)
    assert killed.is_set()
    assert tokens == reference_tokens[:60]
    wait_until(lambda: [node["name"] for node in nodes(cluster.url)] == ["node-0"], "the dead node to be forgotten")


def test_a_stream_whose_last_node_dies_ends_as_interrupted(cluster: RealCluster, reference_tokens: list[int]) -> None:
    """It ended with model_unavailable, which says that nothing was ever begun."""
    given: list[int] = []

    def kill_node(count: int) -> None:
        given.append(count)
        if count == 10:
            cluster.kill("node-0")

    with pytest.raises(openai.APIError) as ended:
        streamed_tokens(cluster.url, kill_node, max_tokens=200)
    assert given[-1] >= 10
    assert ended.value.code == "generation_interrupted"


def test_without_any_node_the_answer_is_503_with_a_sentence(cluster: RealCluster, reference_tokens: list[int]) -> None:
    wait_until(lambda: not nodes(cluster.url), "the node to be forgotten")
    answer = completion(cluster.url, max_tokens=3)
    assert answer["status"] == 503
    assert "no node is connected" in answer["error"]["message"]
    assert int(answer["headers"]["retry-after"]) >= 1


def test_the_front_end_stays_up_without_a_scheduler(tmp_path: Path, store: ModelStore) -> None:
    cluster = RealCluster("tcp://127.0.0.1:9", store.objects.url, tmp_path, {})
    url = cluster.start_frontend()
    try:
        answer = get(f"{url}/healthz")
        assert answer.status_code == 503
        assert "scheduler does not answer" in answer.json()["error"]["message"]
        assert completion(url, max_tokens=3)["status"] == 503
    finally:
        cluster.kill("frontend", signal.SIGTERM)


def test_nothing_of_a_cluster_outlives_its_agents(tmp_path: Path, store: ModelStore) -> None:
    """kill -9 of a node takes its zygote and its stage processes with it."""
    with run_cluster(tmp_path, store.objects.url, nodes=1) as cluster:
        node = psutil.Process(cluster.processes["node-0"].pid)
        wait_until(lambda: len(node.children(recursive=True)) >= 2, "the zygote and its first child")
        below = node.children(recursive=True)
        cluster.kill("node-0")
        gone, alive = psutil.wait_procs(below, timeout=DEADLINE_S)
        assert not alive
        assert len(gone) == len(below)
