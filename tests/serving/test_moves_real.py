"""Replicas of real nodes that make way while clients stream from them: what the clients read is what the unsplit model says.

Two requests run in each test: a greedy one, and one that draws by a seed, with penalties, and tells log probabilities.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.moves_operator import KEY, Move, Operator, Refused
from benchmarks.moves_stream import Stream
from cluster.wire.requests import Sampling
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import post
from tests.real_cluster import RealCluster, run_cluster
from tests.reference import greedy, load_reference, sampled
from tests.serving.test_scheduler_loss import DEADLINE_S, health, wait_until
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(240)
MODEL, TOKENS, BEFORE = "moved", 800, 20
NODES = ("node-0", "node-1", "node-2")
LONG, GRACE_S = 1900, 60.0
GREEDY: dict[str, Any] = {"prompt": [5, 6, 7], "temperature": 0}
SEEDED: dict[str, Any] = {
    "prompt": [9, 8, 7, 6], "temperature": 0.9, "top_p": 0.95, "seed": 11, "presence_penalty": 0.3,
    "frequency_penalty": 0.2, "logprobs": 0,
}  # fmt: skip
Said = tuple[list[int], list[float]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "source"
    return make_tiny("llama", folder, seed=31, eos_token_id=None, max_position_embeddings=2048)


@pytest.fixture(scope="module")
def said(source: Path) -> tuple[Said, Said]:
    """Tokens and log probabilities of both requests by transformers' unsplit model."""
    model = load_reference(source)
    sampling = Sampling(
        temperature=0.9, top_p=0.95, seed=11, presence_penalty=0.3, frequency_penalty=0.2, logprobs=0
    )  # fmt: skip
    return (greedy(model, GREEDY["prompt"], TOKENS), []), sampled(model, SEEDED["prompt"], sampling, TOKENS)


@pytest.fixture(scope="module")
def cluster(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Three nodes, and a front end that starts pipelines of two and moves nothing unless it is told to."""
    folder = tmp_path_factory.mktemp("cluster")
    store = ModelStore(ObjectStore(f"file://{folder / 'store'}"))
    publish(str(source), MODEL, store)
    with run_cluster(folder, store.objects.url, nodes=len(NODES), grace_s=GRACE_S) as running:
        running.url = running.start_frontend(
            max_degree=2, keep_alive_s=0.5, consolidate=False, operator_key=KEY, start_timeout_s=60.0
        )
        yield running


@pytest.fixture
def operator(cluster: RealCluster) -> Iterator[Operator]:
    """Of a cluster in which nothing runs; and nothing is left of the test a little later."""
    wait_until(lambda: health(cluster.url) == (200, "ok", len(NODES)), "all nodes")
    operator = Operator(cluster.url)
    yield operator
    wait_until(lambda: at_rest(operator), "nothing to be left")


def at_rest(operator: Operator) -> bool:
    status = operator.status()
    held = [node["device_reserved_bytes"] or node["stage_processes"]["busy"] for node in status["nodes"]]
    return not (status["replicas"] or any(held))


@contextmanager
def streaming(operator: Operator, said: tuple[Said, Said]) -> Iterator[tuple[str, ...]]:
    """Both requests run while the block does, and are whole in the end. The nodes of their pipeline."""
    streams = [Stream(operator.url, {"model": MODEL, "max_tokens": TOKENS, **body}) for body in (GREEDY, SEEDED)]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.reach(BEFORE)
    (pipeline,) = operator.replicas(MODEL)
    assert pipeline["degree"] == 2
    yield tuple(pipeline["nodes"])
    for stream, (tokens, logprobs) in zip(streams, said, strict=True):
        stream.end()
        assert stream.tokens == tokens
        assert stream.logprobs == pytest.approx(logprobs, abs=1e-3)


def other(nodes: tuple[str, ...]) -> str:
    """The node that has no stage of the pipeline."""
    (found,) = set(NODES) - set(nodes)
    return found


def ready(operator: Operator, **wish: str) -> Move:
    """A move that stands and waits for its last step."""
    move = operator.order("consolidate", model=MODEL, carrier="caller", **wish)
    assert (move["step"], move["carrier"]) == ("ordered", "caller")
    found = operator.go_on(move["move"], "ordered")
    assert found["step"] == "ready", found
    return found


def kill_stages(cluster: RealCluster, node: str) -> None:
    for stage in cluster.stages(node):
        stage.kill()


def test_a_pipeline_becomes_one_replica_under_its_streams(operator: Operator, said: tuple[Said, Said]) -> None:
    with streaming(operator, said) as nodes:
        move = operator.await_done(operator.order("consolidate", model=MODEL)["move"])
        (replica,) = operator.replicas(MODEL)
    assert replica["degree"] == 1 < len(nodes)
    assert (move["kind"], move["carrier"], move["requests"]["shifted"]) == ("consolidate", "front end", 2)
    assert len(move["pauses_s"]) == 2


def test_a_replica_goes_to_another_node_and_a_request_alone_too(operator: Operator, said: tuple[Said, Said]) -> None:
    with streaming(operator, said) as nodes:
        target = other(nodes)
        move = operator.await_done(operator.order("migrate", model=MODEL, node=target)["move"])
        (replica,) = operator.replicas(MODEL)
    assert target in replica["nodes"]
    assert move["requests"]["shifted"] == 2


def test_a_node_is_drained_and_taken_back(operator: Operator, said: tuple[Said, Said]) -> None:
    with streaming(operator, said) as nodes:
        move = operator.await_done(operator.drain(nodes[1])["move"])
        serving = operator.replicas(MODEL)
        operator.undrain(nodes[1])
    assert move["requests"]["shifted"] == 2
    assert [nodes[1] in replica["nodes"] for replica in serving] == [False]


def test_a_node_that_is_asked_to_end_is_left_first(
    cluster: RealCluster, operator: Operator, said: tuple[Said, Said]
) -> None:
    with streaming(operator, said) as nodes:
        cluster.processes[nodes[0]].send_signal(signal.SIGTERM)
        assert cluster.ended(nodes[0]) == 0
        assert [nodes[0] in replica["nodes"] for replica in operator.replicas(MODEL)] == [False]
    (move, *_) = operator.moves()
    assert (move["kind"], move["node"], move["requests"]["shifted"]) == ("drain", nodes[0], 2)
    cluster.start_node(nodes[0], grace_s=GRACE_S)


def test_an_heir_that_dies_before_anything_moved_is_given_up(
    cluster: RealCluster, operator: Operator, said: tuple[Said, Said]
) -> None:
    with streaming(operator, said) as nodes:
        move = ready(operator, node=other(nodes))
        kill_stages(cluster, other(nodes))
        given_up = operator.await_step(move["move"])
        assert [replica["nodes"] for replica in operator.replicas(MODEL)] == [list(nodes)]
    assert (given_up["step"], bool(given_up["why"]), given_up["requests"]["shifted"]) == ("given up", True, 0)


@pytest.mark.parametrize("victim", ["heir", "pipeline"])
def test_who_dies_while_requests_go_over_takes_no_token_along(
    cluster: RealCluster, operator: Operator, said: tuple[Said, Said], victim: str
) -> None:
    with streaming(operator, said) as nodes:
        move = ready(operator, node=other(nodes))["move"]
        switching = threading.Thread(target=operator.go_on, args=(move, "ready"))
        switching.start()
        kill_stages(cluster, other(nodes) if victim == "heir" else nodes[1])
        switching.join(DEADLINE_S)
        assert operator.await_step(move)["step"] in ("done", "given up")


def test_what_cannot_be_is_refused_in_a_sentence_and_changes_nothing(
    operator: Operator, said: tuple[Said, Said]
) -> None:
    """One move is under way, which nobody carries on: another of the same replica is refused, and so is what there is not.
    It is given up in the end."""
    with streaming(operator, said) as nodes:
        move = operator.order("consolidate", model=MODEL, carrier="caller")["move"]
        for wish, word in (
            ({"kind": "consolidate", "model": MODEL}, move),
            ({"kind": "migrate", "model": MODEL, "node": other(nodes)}, move),
            ({"kind": "migrate", "model": MODEL, "node": "nowhere"}, "nowhere"),
            ({"kind": "consolidate", "model": "nobody"}, "nobody"),
            ({"kind": "migrate", "request": "cmpl-none", "node": nodes[0]}, "cmpl-none"),
        ):
            with pytest.raises(Refused, match=word):
                operator.order(**wish)
        with pytest.raises(Refused, match="nowhere"):
            operator.drain("nowhere")
        assert status_of(operator.url, {"kind": "consolidate", "model": MODEL}, "wrong") == 401
        assert status_of(operator.url, {"kind": "elsewhere"}, KEY) in (400, 422)
        assert [replica["nodes"] for replica in operator.replicas(MODEL)] == [list(nodes)]
        given_up = operator.give_up(move, "enough is enough")
    assert (given_up["step"], given_up["why"]) == ("given up", "enough is enough")


def test_the_command_line_moves_and_says_what_is_refused(cluster: RealCluster, operator: Operator) -> None:
    """While a long answer runs: a command takes a while to begin."""
    stream = Stream(operator.url, {"model": MODEL, "max_tokens": LONG, **GREEDY})
    stream.start()
    stream.reach(1)
    moved = firsttoken(cluster, "consolidate", MODEL, "--json")
    assert (moved.returncode, json.loads(moved.stdout)["requests"]["shifted"]) == (0, 1), moved.stderr
    refused = firsttoken(cluster, "drain", "nowhere")
    assert refused.returncode == 1
    assert "no node called nowhere is connected" in refused.stderr
    stream.end()
    assert len(stream.tokens) == LONG


def firsttoken(cluster: RealCluster, *command: str) -> "subprocess.CompletedProcess[str]":
    settings = {
        "home": str(cluster.folder),
        "frontend": {"port": int(cluster.url.rpartition(":")[2]), "operator_key": KEY},
    }
    path = cluster.folder / "operator.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(settings))
    full = [sys.executable, "-m", "firsttoken", *command, "--config", str(path)]
    return subprocess.run(full, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def status_of(url: str, wish: dict[str, str], key: str) -> int:
    return post(
        f"{url}/v1/moves", json=wish, headers={"Authorization": f"Bearer {key}"}, timeout=DEADLINE_S
    ).status_code
