"""Publishing, proving, removing and collecting models, each as a person or a script does it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.firsttoken.command_line import Done, clean_environment, run_here
from tests.storage_tiers.handmade import flip
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(60)

Run = Callable[..., Done]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """The store of the home that `run` uses, with one model in it."""
    found = ModelStore(ObjectStore(str(tmp_path / "home/store")))
    publish(str(make_tiny("llama", tmp_path / "source", num_hidden_layers=1)), "tiny", found)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command to its end, in this process."""
    environment = {**clean_environment(), "FIRSTTOKEN_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    return lambda *arguments, answer="": run_here(arguments, environment, answer)


def test_a_sound_model_is_verified(run: Run, store: ModelStore) -> None:
    result = run("verify", "tiny")
    assert (result.returncode, result.stdout) == (0, "")
    assert "tiny is whole: 3 units compared" in result.stderr
    report = json.loads(run("verify", "tiny", "--json").stdout)
    assert (report["name"], report["units"], report["damages"]) == ("tiny", 3, [])


def test_a_damaged_model_is_an_exit_status_and_a_list(run: Run, store: ModelStore) -> None:
    flip(Path(store.objects.path(store.unit_key("tiny", store.open("tiny").unit("head")))), 0)
    result = run("verify", "tiny")
    assert result.returncode == 1
    assert result.stdout == "head: chunk 0 of 1 has another crc32c than the index says\n"
    report = run("verify", "tiny", "--json")
    assert (report.returncode, [damage["part"] for damage in json.loads(report.stdout)["damages"]]) == (1, ["head"])


def test_a_model_that_is_not_there_is_named(run: Run, store: ModelStore) -> None:
    for command in (("verify", "nobody"), ("models", "rm", "nobody", "--yes")):
        result = run(*command)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.strip().splitlines()[-1].startswith("firsttoken: no model 'nobody' in ")


def test_removing_asks_first(run: Run, store: ModelStore) -> None:
    refused = run("models", "rm", "tiny", answer="n\n")
    assert refused.returncode == 1
    assert "Remove tiny" in refused.stderr
    assert store.list() == ["tiny"]
    assert run("models", "rm", "tiny", answer="y\n").returncode == 0
    assert store.list() == []


def test_removing_without_a_question(run: Run, store: ModelStore) -> None:
    assert run("models", "rm", "tiny", "--yes").stderr == "tiny is removed\n"
    assert json.loads(run("models", "--json").stdout) == []


def test_a_damaged_model_can_be_removed(run: Run, store: ModelStore) -> None:
    store.objects.write("tiny/zarr.json", b"{")
    assert run("models", "rm", "tiny", "--yes").returncode == 0
    assert store.list() == []


def test_collecting_says_what_goes(run: Run, store: ModelStore, tmp_path: Path) -> None:
    old = store.open("tiny").version
    publish(str(make_tiny("llama", tmp_path / "other", num_hidden_layers=1, seed=1)), "tiny", store)
    assert json.loads(run("models", "gc", "--json").stdout) == []
    rehearsed = json.loads(run("models", "gc", "--grace", "0", "--dry-run", "--json").stdout)
    assert [garbage["key"] for garbage in rehearsed] == [f"tiny/{old}"]
    result = run("models", "gc", "--grace", "0")
    assert result.stdout.startswith(f"tiny/{old}  ")
    assert "in 1 items were removed" in result.stderr
    assert store.objects.facts(f"tiny/{old}") == {}


def test_the_listing_is_the_default(run: Run, store: ModelStore) -> None:
    assert [model["name"] for model in json.loads(run("models", "--json").stdout)] == ["tiny"]
    assert "tiny" in run("models").stdout


def test_a_damaged_model_is_a_row_of_the_listing(run: Run, store: ModelStore) -> None:
    """One root that could not be read made the command fail for all models."""
    store.objects.write("bad/zarr.json", b"{")
    listed = run("models", "--json")
    bad, good = json.loads(listed.stdout)
    assert listed.returncode == 0
    assert (bad["name"], good["name"], "error" in good) == ("bad", "tiny", False)
    assert "bad/zarr.json is not a model's root metadata" in bad["error"]
    shown = run("models")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("bad", "cannot be opened", "tiny"))
    store.objects.write("tiny/zarr.json", b"{")
    assert run("models").returncode == 1


def test_publishing_in_place(run: Run, store: ModelStore, tmp_path: Path) -> None:
    result = run("publish", str(tmp_path / "source"), "--name", "indexed", "--in-place", "--workers", "2", "--json")
    assert json.loads(result.stdout)["version"] == store.open("indexed").version
    assert all(unit.extents for unit in store.open("indexed").units)
    assert store.open("indexed").digest == store.open("tiny").digest
