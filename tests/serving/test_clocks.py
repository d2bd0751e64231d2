"""The wall clock is for people: it may be set at any time, and nothing that runs or is learned changes by it."""

import ast
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.wire.phases import Phase, in_our_clock, unix_s
from cluster.wire.reports import Phases
from serving.cold_start import ColdStart
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, openai_of
from tests.real_cluster import RealCluster, run_cluster
from tests.stepped_clock import SteppedClock
from tests.tiny import make_tiny

HOUR_S = 3600.0
PROMPT, TOKENS = [5, 6, 7], 150
ROOT = Path(__file__).parents[2]
PACKAGES = ("schedules", "storage_tiers", "cluster", "serving", "flows", "firsttoken")
OF_THE_WORLD = {
    "cluster/wire/encryption.py": "certificates",
    "firsttoken/local.py": "certificates",
    "flows/listening.py": "when a node was heard of, for Prefect's events",
    "cluster/wire/phases.py": "phases of several machines",
    "serving/answering/shapes.py": "`created` of an answer",
    "serving/answering/responses.py": "`created_at` of an answer",
    "serving/history/history.py": "the age of rows",
    "firsttoken/demo/counting.py": "when it was asked; when words came, beside when a front end says that they moved",
    "firsttoken/demo/listening.py": "when it was asked; when words came, for what counts on them",
    "firsttoken/commands/published.py": "the age of objects in the store",
    "firsttoken/commands/fit.py": "how far back the history is read",
    "firsttoken/commands/foresight.py": "how far back the history is read; when a plan is made; how long it is good",
    "firsttoken/commands/plan.py": "how far back the history is read; when a report was made",
    "firsttoken/commands/traces.py": "how far back the history is read",
    "flows/backtest.py": "how far back the history is read",
    "flows/prewarming/bringing.py": "how long a plan is good",
    "flows/foreseeing/carry.py": "how long a plan is good",
    "flows/prewarming/steps.py": "when a plan is made; which runs are due",
    "flows/plan_capacity.py": "how far back the history is read; when a report was made",
    "flows/planning/kept.py": "the age of files",
    "storage_tiers/passing.py": "when a server asks to be asked again",
}


def _wall_clocks(source: str) -> list[str]:
    """What in a module asks for the time of day."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [name.name for name in node.names if name.name in ("time", "time_ns")]
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text in ("time.time", "time.time_ns") or text.endswith((".now", ".utcnow", ".today")):
                found.append(text)
    return found


def test_only_what_is_of_the_world_outside_is_told_by_the_wall_clock() -> None:
    """A timeout was reckoned from the time of day, and a clock that was set forward ended every stream."""
    asked = {
        str(path.relative_to(ROOT)): clocks
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (clocks := _wall_clocks(path.read_text()))
    }
    assert {file: len(clocks) for file, clocks in asked.items()} == {
        file: len(why.split("; ")) for file, why in OF_THE_WORLD.items()
    }


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> SteppedClock:
    return SteppedClock(tmp_path_factory.mktemp("clock") / "off")


@pytest.fixture(scope="module")
def cluster(clock: SteppedClock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A whole cluster by a clock that the tests set, with two models that never end by themselves."""
    store = ModelStore(ObjectStore(f"file://{tmp_path_factory.mktemp('store')}"))
    for name, seed in (("tiny", 41), ("other", 42)):
        source = make_tiny("llama", tmp_path_factory.mktemp(name) / "source", seed=seed, eos_token_id=None)
        publish(str(source), name, store)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in clock.environment.items():
            patch.setenv(variable, value)
        with run_cluster(tmp_path_factory.mktemp("cluster"), store.objects.url, nodes=2) as running:
            running.url = running.start_frontend(request_timeout_s=60.0)
            yield running


def _streamed(url: str, model: str, at_token: object = lambda _count: None) -> list[int]:
    tokens: list[int] = []
    with openai_of(url, 60.0) as client:
        stream = client.completions.create(
            model=model, prompt=PROMPT, temperature=0, max_tokens=TOKENS, stream=True,
            extra_body={"return_token_ids": True},
        )  # fmt: skip
        for chunk in stream:
            tokens += chunk.choices[0].model_extra["token_ids"]
            at_token(len(tokens))
    return tokens


def test_a_clock_that_is_set_ends_no_stream(cluster: RealCluster, clock: SteppedClock) -> None:
    """A stream ended with request_timeout when the clock was set an hour forward; set back, none ever timed out."""
    steps = {20: HOUR_S, 70: -HOUR_S, 120: 0.0}

    def step(count: int) -> None:
        if count in steps:
            clock.set_off(steps[count])

    expected = _streamed(cluster.url, "tiny")
    assert len(expected) == TOKENS
    assert _streamed(cluster.url, "tiny", step) == expected


def test_a_clock_that_is_set_teaches_nothing_wrong(cluster: RealCluster, clock: SteppedClock) -> None:
    """A start in which the clock was set took an hour, or less than nothing, by what its node and the ledger said."""
    over = threading.Event()

    def restless() -> None:
        off_s = HOUR_S
        while not over.wait(0.01):
            clock.set_off(off_s)
            off_s = -off_s
        clock.set_off(0.0)

    setting = threading.Thread(target=restless)
    setting.start()
    try:
        assert len(_streamed(cluster.url, "other")) == TOKENS
    finally:
        over.set()
        setting.join()
    (start,) = get(f"{cluster.url}/admin/cold-starts", params={"model": "other"}).json()["cold_starts"]
    assert 0 < start["ttft_s"] < 60
    assert all(0 <= phase["end_s"] - phase["start_s"] < 60 for phase in start["phases"])
    nodes = get(f"{cluster.url}/admin/status").json()["nodes"]
    formed = [rate for node in nodes for name, rate in node["rates"].items() if name.startswith("formed.")]
    assert formed
    assert all(0 < rate["mean"] < 60 and 0 < rate["bad"] < 60 for rate in formed)


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S])
def test_phases_of_two_clocks_are_not_learned_from(off_s: float) -> None:
    phases = (Phase("take process", "a", 100.1, 100.2), Phase("fetch head", "a from ssd", 100.1, 100.7))
    start = ColdStart("m", "g", ("a",), 100.0, 1.0, phases)
    assert start.one_clock
    moved = replace(phases[1], start_s=phases[1].start_s + off_s, end_s=phases[1].end_s + off_s)
    wrong = replace(start, phases=(phases[0], moved))
    assert not wrong.one_clock
    assert wrong.fetched_s == 0.0


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 0.0])
def test_phases_of_another_machine_are_told_in_our_clock(off_s: float) -> None:
    """They came in unix seconds of several machines, and were subtracted from each other: starts lasted hours."""
    asked_s = time.monotonic()
    began_s = unix_s(asked_s)
    told = Phases((Phase("fetch head", "a from ssd", began_s + off_s, began_s + off_s + 2.0),), began_s + 0.1 + off_s)
    (phase,) = in_our_clock(told.phases, told.now_s, asked_s, asked_s + 0.2)
    assert phase.start_s == pytest.approx(began_s, abs=0.01)
    assert phase.end_s - phase.start_s == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("answered_after_s", [0.0, 0.05, 0.4])
def test_phases_of_one_clock_stay_where_they_are_however_late_the_answer_comes(answered_after_s: float) -> None:
    """A busy event loop read the answer late: phases were moved by half of that, some to before the request had come."""
    asked_s = time.monotonic()
    began_s = unix_s(asked_s)
    told = (Phase("take process", "a", began_s + 0.001, began_s + 0.002),)
    assert in_our_clock(told, began_s + 0.003, asked_s, asked_s + 0.004 + answered_after_s) == told
