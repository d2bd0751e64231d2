"""Models that are elsewhere: on the hub and behind fsspec URLs, read by ranges, never whole, never kept here."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage_tiers.errors import SourceError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.progress import UnitProgress
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.sources.folders import REMOTE_PIECE_BYTES
from storage_tiers.publishing.verify import verify
from tests.embedders import say_pooling
from tests.fake_hub import FakeHub, run_fake_hub
from tests.storage_tiers.tokenizers import byte_tokenizer, save_tokenizer
from tests.tiny import make_tiny
from tests.tiny_gguf import make_tiny_gguf

_ROOT_FOLDER = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository, org/tiny; temporary files go to a folder that can be looked into."""
    make_tiny("llama", tmp_path / "hub/org/tiny", shards=3)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with run_fake_hub(tmp_path / "hub") as running:
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


def _digest(source: Path, store: ModelStore) -> str:
    """What the same model has for a digest when it is published from a folder."""
    return publish(str(source), "local", store).digest


@pytest.mark.parametrize("where", ["org/tiny", "hf://org/tiny", "hf://org/tiny@v1", "org/tiny@main"])
def test_a_model_of_the_hub_is_that_of_its_files(where: str, hub: FakeHub, tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(where, "model", store)
    assert checkpoint.digest == _digest(hub.folder / "org/tiny", store)
    assert not list((tmp_path / "temporary").iterdir())


def test_the_hub_is_read_by_ranges_and_nothing_twice(hub: FakeHub, store: ModelStore) -> None:
    publish("org/tiny", "model", store)
    assert hub.largest_answer_bytes <= REMOTE_PIECE_BYTES
    weights = [asked for asked in hub.ranges if asked[0].endswith(".safetensors")]
    assert len(weights) == len(set(weights)) > 10


def test_publishing_again_reads_no_weights(hub: FakeHub, store: ModelStore) -> None:
    first = publish("org/tiny", "model", store)
    hub.ranges.clear()
    assert publish("org/tiny", "model", store) == first
    assert not [asked for asked in hub.ranges if asked[0].endswith(".safetensors")]


def test_what_the_hub_says_of_embeddings_is_read_from_the_folders_below(hub: FakeHub, store: ModelStore) -> None:
    say_pooling(hub.folder / "org/tiny", "lasttoken", normalized=True, max_seq_length=64)
    assert publish("org/tiny", "m", store).pooling == Pooling("last", normalized=True, max_tokens=64)


def test_a_new_commit_is_a_new_version(hub: FakeHub, store: ModelStore) -> None:
    first = publish("org/tiny", "model", store)
    make_tiny("llama", hub.folder / "org/tiny", shards=3, seed=1)
    second = publish("org/tiny", "model", store)
    assert first.version != second.version
    assert verify(store, "model").checkpoint == second


def test_an_interrupted_download_goes_on_where_it_ended(hub: FakeHub, store: ModelStore) -> None:
    def interrupt(progress: UnitProgress) -> None:
        if progress.unit == "layer.0002":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish("org/tiny", "model", store, workers=1, progress=interrupt)
    asked = {asked for asked in hub.ranges if asked[0].endswith(".safetensors") and asked[2] - asked[1] > 1000}
    hub.ranges.clear()
    publish("org/tiny", "model", store)
    again = [a for a in hub.ranges if a in asked and a[1] > 8]
    assert len(again) < len(asked) / 2
    assert verify(store, "model").damages == ()


def test_a_gguf_file_of_the_hub_is_copied_for_as_long_as_it_is_read(
    hub: FakeHub, tmp_path: Path, store: ModelStore
) -> None:
    (hub.folder / "org/quantised").mkdir()
    for name in ("q4.gguf", "q8.gguf"):
        file = make_tiny_gguf("llama", hub.folder / "org/quantised" / name)
    with pytest.raises(SourceError, match=r"several GGUF files \(q4.gguf, q8.gguf\)"):
        publish("org/quantised", "model", store)
    checkpoint = publish("hf://org/quantised/q8.gguf", "model", store)
    assert checkpoint.digest == _digest(file, store)
    assert not list((tmp_path / "temporary").iterdir())


def test_an_outage_is_waited_for(hub: FakeHub, store: ModelStore) -> None:
    hub.failures_left = 1
    publish("org/tiny", "model", store)
    assert verify(store, "model").damages == ()


def test_a_missing_repository_is_named(hub: FakeHub, store: ModelStore) -> None:
    with pytest.raises(SourceError, match="org/absent is neither a path here nor a model on the hub"):
        publish("org/absent", "model", store)


def test_a_missing_revision_is_named(hub: FakeHub, store: ModelStore) -> None:
    with pytest.raises(SourceError, match="org/tiny has no revision 'v9' on the hub"):
        publish("hf://org/tiny@v9", "model", store)


def test_a_private_repository_needs_a_token(hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private.add("org/tiny")
    with pytest.raises(SourceError, match="if it is private, log in"):
        publish("org/tiny", "model", store)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    publish("org/tiny", "model", store)


def test_a_gated_repository_says_what_to_do(hub: FakeHub, store: ModelStore) -> None:
    hub.gated.add("org/tiny")
    with pytest.raises(SourceError, match="org/tiny is gated: ask for access"):
        publish("org/tiny", "model", store)


def test_offline_mode_is_respected(hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
        publish("org/tiny", "model", store)


def test_an_unreachable_hub_is_no_fault_of_the_source(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"cannot be read from the hub at http://127.0.0.1:9"):
        publish("org/tiny", "model", store)


@pytest.mark.parametrize("where", ["hf://tiny", "hf://", "hf://org/tiny/deep/er.gguf", "hf://org/tiny/config.json"])
def test_what_names_no_model_is_refused(where: str, store: ModelStore) -> None:
    with pytest.raises(SourceError, match="does not name a model"):
        publish(where, "model", store)


def test_a_folder_of_that_name_comes_before_the_hub(
    hub: FakeHub, tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny("llama", tmp_path / "here/org/tiny", seed=1)
    monkeypatch.chdir(tmp_path / "here")
    publish("org/tiny", "model", store)
    assert hub.ranges == []


def test_the_hub_cannot_be_served_in_place(hub: FakeHub, store: ModelStore) -> None:
    with pytest.raises(SourceError, match="not in place for nodes to read"):
        publish("org/tiny", "model", store, in_place=True)


def test_the_command_line_honours_the_endpoint(hub: FakeHub, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FIRSTTOKEN_", "HF_"))}
    environment |= {"HF_ENDPOINT": hub.url, "FIRSTTOKEN_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "firsttoken", "publish", "org/tiny", "--name", "tiny"]
    subprocess.run(command, env=environment, cwd=_ROOT_FOLDER, check=True, capture_output=True, timeout=60)
    assert ModelStore(ObjectStore(str(tmp_path / "home/store"))).list() == ["tiny"]


def _upload(folder: Path, objects: ObjectStore, key: str) -> str:
    for path in folder.iterdir():
        objects.write(f"{key}/{path.name}", path.read_bytes())
    return f"{objects.url}/{key}"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_on_s3_is_published(shards: int, tmp_path: Path, s3_objects: ObjectStore) -> None:
    source = make_tiny("llama", tmp_path / "source", shards=shards)
    store = ModelStore(s3_objects)
    checkpoint = publish(_upload(source, s3_objects, "raw/tiny"), "model", store)
    assert checkpoint.digest == _digest(source, store)
    assert verify(store, "model").damages == ()


def test_a_gguf_file_on_s3_is_published(tmp_path: Path, s3_objects: ObjectStore) -> None:
    (tmp_path / "source").mkdir()
    file = make_tiny_gguf("llama", tmp_path / "source/model.gguf")
    store = ModelStore(s3_objects)
    url = _upload(file.parent, s3_objects, "raw")
    digest = _digest(file, store)
    assert publish(url, "one", store).digest == digest
    assert publish(f"{url}/model.gguf", "two", store).digest == digest


def test_a_tokenizer_and_its_templates_come_from_anywhere(
    hub: FakeHub, tmp_path: Path, s3_objects: ObjectStore, store: ModelStore
) -> None:
    """Templates lie in a folder below the model's."""
    source, templates = hub.folder / "org/tiny", hub.folder / "org/tiny/additional_chat_templates"
    save_tokenizer(source, byte_tokenizer())
    templates.mkdir()
    (templates / "tools.jinja").write_text("{{ messages }}")
    expected = publish(str(source), "local", store)
    assert "tools" in next(
        store.read_file("local", file).decode() for file in expected.files if file.name == "tokenizer_config.json"
    )
    for path in (path for path in source.rglob("*") if path.is_file()):
        s3_objects.write(f"raw/{path.relative_to(source)}", path.read_bytes())
    assert publish("org/tiny", "hub", store).digest == expected.digest
    assert publish(f"{s3_objects.url}/raw", "s3", ModelStore(s3_objects)).digest == expected.digest
    assert not list((tmp_path / "temporary").iterdir())


def test_what_changes_on_s3_is_another_version(tmp_path: Path, s3_objects: ObjectStore) -> None:
    store = ModelStore(s3_objects)
    url = _upload(make_tiny("llama", tmp_path / "one"), s3_objects, "raw")
    first = publish(url, "model", store)
    assert publish(url, "model", store) == first
    _upload(make_tiny("llama", tmp_path / "two", seed=1), s3_objects, "raw")
    assert publish(url, "model", store).version != first.version


def test_an_empty_or_absent_folder_on_s3_is_refused(s3_objects: ObjectStore) -> None:
    with pytest.raises(SourceError, match="is empty or does not exist"):
        publish(f"{s3_objects.url}/nowhere", "model", ModelStore(s3_objects))


def test_an_unknown_protocol_is_refused_by_name(store: ModelStore) -> None:
    with pytest.raises(Exception, match="nosuch"):
        publish("nosuch://bucket/model", "model", store)
