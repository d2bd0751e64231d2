"""A world is fitted to a cluster's own history from the command line."""

import io
import json
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from firsttoken.views.fit import fit_view, verdict
from schedules.fitting.fitted import TAIL, Fitted, Played, Quality, Quantity, Whence
from schedules.fitting.world_file import from_json
from schedules.simulation.comparing import compare, match
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.asking import get, post
from tests.firsttoken.command_line import Done, clean_environment, run_here
from tests.real_cluster import RealCluster
from tests.schedules.worlds import world_node
from tests.tiny import make_tiny

Run = Callable[..., Done]
STARTS = 10


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `fit` to its end in this process, with these settings."""

    def runs(*arguments: object, settings: Mapping[str, str] | None = None) -> Done:
        environment = {**clean_environment(), "FIRSTTOKEN_HOME": str(tmp_path / "home"), "COLUMNS": "160"}
        return run_here(("fit", *map(str, arguments)), environment | dict(settings or {}))

    return runs


def test_without_a_history_there_is_a_sentence(run: Run, tmp_path: Path) -> None:
    result = run()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"firsttoken: there is no history at sqlite:///{tmp_path}/home/history.db: a front end that serves makes one\n"
    )
    assert not (tmp_path / "home").exists()


def test_where_no_world_can_be_written_nothing_is_done(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "world.json"
    there.write_text("mine")
    for out, reason in ((there, "is there already: --force replaces it"), (tmp_path, "is a folder"),
                        (tmp_path / "no" / "world.json", "there is no folder")):  # fmt: skip
        result = run("--out", out)
        assert result.returncode == 1
        assert reason in result.stderr
    assert there.read_text() == "mine"


def _quality(seen: float, before: float, after: float) -> Quality:
    """Of starts that took so long, and were played like that."""
    nothing = Played(None, None, None, 1, 0)
    reported, fitted = (
        Played(compare([seen] * 9, [played] * 9), match([seen], [played]), None, 1, 1) if played else nothing
        for played in (before, after)
    )
    return Quality(0.0, 7200.0, 9, reported, fitted)


def test_a_person_sees_what_was_fitted_from_what_and_whether_it_is_any_good() -> None:
    quantities = (
        Quantity("n0", "nic", 1e8, 2e8, Whence.OWN, 9, 1, 0.25),
        Quantity("n0", "reach", 0.01, 0.01, Whence.REPORTED),
        Quantity("", TAIL, 0.3, None, Whence.PLAYED, 8),
    )
    world = Fitted((world_node("n0"),), quantities=quantities, quality=_quality(1.0, 0.5, 1.02), source="9 cold starts")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(fit_view(world))
    text = console.export_text()
    rows = [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in text.splitlines()]
    assert "n0 nic 200.0 MB/s 100.0 MB/s 9 1 25% its own starts" in rows
    assert "n0 reach 10.0 ms as reported" in rows
    assert "all from all being there to the first step 300.0 ms 8 0 0% playing it again" in rows
    assert "single cold starts: mean error 50.0% 2.0%" in rows
    assert any(
        row.startswith("Judged by the last 2.0 h (9 requests), which were not fitted to. Single cold starts")
        for row in rows
    )


def test_a_verdict_says_when_a_fit_is_of_no_use() -> None:
    assert "come out 2.0% off in the mean (1 of them), 50.0% by what nodes report" in verdict(_quality(1.0, 0.5, 1.02))
    assert "no better than what nodes report" in verdict(_quality(1.0, 1.1, 1.5))
    assert "not distributed as it was seen" in verdict(_quality(1.0, 1.1, 1.5))
    assert "is not known" in verdict(_quality(1.0, 1.1, 0.0))


@pytest.fixture
def used(shared_cluster: RealCluster, shared_store: ModelStore, tmp_path: Path) -> Mapping[str, str]:
    """Settings of a cluster that has started a model a few times, and been asked a few things beside."""
    model = "often-started"
    publish(str(make_tiny("llama", tmp_path / "source", seed=53)), model, shared_store)
    history = f"sqlite:///{tmp_path}/history.db"
    url = shared_cluster.start_frontend("fitted", history_url=history, keep_alive_s=0.2)
    body = {"model": model, "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    try:
        for _ in range(STARTS):
            for _ in range(2):
                assert post(f"{url}/v1/completions", json=body, timeout=60.0).status_code == 200
            _until(lambda: not get(f"{url}/admin/status").json()["replicas"])
        _until(lambda: all("nic" in node["rates"] for node in get(f"{url}/admin/status").json()["nodes"]))
    finally:
        shared_cluster.kill("fitted", signal.SIGTERM)
    port = shared_cluster.scheduler_address.rpartition(":")[2]
    return {
        "FIRSTTOKEN_HISTORY__URL": history,
        "FIRSTTOKEN_STORE__URL": shared_cluster.store_url,
        "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": port,
        "FIRSTTOKEN_FRONTEND__KEEP_ALIVE_S": "0.2",
        "FIRSTTOKEN_FRONTEND__POLICY": "fixed",
    }


def _until(so: Callable[[], Any], within_s: float = 90.0) -> None:
    end_s = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < end_s, "it never came to be so"
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_a_cluster_that_has_started_models_is_fitted(run: Run, used: Mapping[str, str], tmp_path: Path) -> None:
    """And one that has not for long is told how much is missing."""
    out = tmp_path / "world.json"
    result = run("--out", out, "--json", settings=used)
    assert result.returncode == 0, result.stderr
    world, told = from_json(json.loads(out.read_text())), json.loads(result.stdout)
    assert told["quality"]["fitted"]["starts_seen"] >= 3
    assert len(world.nodes) == 4
    assert re.match(rf"\d\d cold starts and {2 * STARTS} requests of 7\.0 days", world.source)
    seen = {quantity.name for quantity in world.quantities if quantity.whence is not Whence.REPORTED}
    assert any(name.startswith("formed.") for name in seen)
    assert world.quality is not None
    assert world.quality.fitted.starts is not None
    assert "for `firsttoken plan --world`" in run("--out", out, "--force", settings=used).stderr
    few = run("--since", "0.01s", settings=used)
    assert few.returncode == 1
    assert "the history has 0 cold starts in the 0.0 hours: a fit takes at least 9" in few.stderr
