"""Which of the weights in a folder are published: those that transformers takes, or those that the caller names."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.fake_hub import FakeHub
from tests.storage_tiers.test_remote_sources import hub as hub
from tests.storage_tiers.test_torch_source import pickle_weights
from tests.tiny import make_tiny
from tests.tiny_gguf import make_tiny_gguf

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def _refused(source: Path, store: ModelStore, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        publish(str(source), "model", store)
    assert store.list() == []


def _digest(source: Path, store: ModelStore) -> str:
    return publish(str(source), "judge", store).digest


@pytest.fixture
def old(tmp_path: Path, store: ModelStore) -> str:
    """The digest of a model whose shards lie in the folder `both`."""
    return _digest(make_tiny("llama", tmp_path / "both", shards=3, seed=1), store)


@pytest.fixture
def new(tmp_path: Path, store: ModelStore, old: str) -> str:
    """The digest of one whose single file lies there too."""
    digest = _digest(make_tiny("llama", tmp_path / "new", seed=2), store)
    shutil.copy(tmp_path / "new" / _SINGLE, tmp_path / "both" / _SINGLE)
    store.objects.remove("judge")
    return digest


def test_weights_that_are_there_twice_are_not_guessed(tmp_path: Path, store: ModelStore, old: str, new: str) -> None:
    """Training into an old folder leaves a new file beside old shards: transformers takes the file, we took the shards."""
    both = tmp_path / "both"
    names = f"{both / _SINGLE} or {both / _INDEX}"
    _refused(both, store, rf"holds weights twice: {_SINGLE}, and \d files that {_INDEX} joins.*{re.escape(names)}")
    assert publish(str(both / _SINGLE), "new", store).digest == new
    assert publish(str(both / _INDEX), "old", store).digest == old


def test_an_index_whose_files_are_gone_says_nothing(tmp_path: Path, store: ModelStore, old: str, new: str) -> None:
    """As transformers has it."""
    for shard in (tmp_path / "both").glob("model-0*"):
        shard.unlink()
    assert publish(str(tmp_path / "both"), "model", store).digest == new


def test_an_index_of_the_single_file_is_no_second_set(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    expected = _digest(source, store)
    weight_map = ",".join(f'"{name}": "{_SINGLE}"' for name in load_file(source / _SINGLE))
    (source / _INDEX).write_text(f'{{"weight_map": {{{weight_map}}}}}')
    assert publish(str(source), "model", store).digest == expected


def test_pickles_that_are_there_twice_are_not_guessed_either(tmp_path: Path, store: ModelStore, old: str) -> None:
    both = pickle_weights(tmp_path / "both", files=3)
    (both / _INDEX).unlink()
    torch.save(load_file(make_tiny("llama", tmp_path / "new", seed=2) / _SINGLE), both / "pytorch_model.bin")
    new = _digest(tmp_path / "new", store)
    store.objects.remove("judge")
    _refused(both, store, "holds weights twice: pytorch_model.bin, and 3 files that pytorch_model.bin.index.json joins")
    assert publish(str(both / "pytorch_model.bin"), "new", store).digest == new
    assert publish(str(both / "pytorch_model.bin.index.json"), "old", store).digest == old


def test_files_of_other_names_do_not_matter(tmp_path: Path, store: ModelStore, old: str) -> None:
    """Mistral's own file, variants, adapters and what training leaves behind lie beside many models."""
    both = tmp_path / "both"
    for name in (
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "adapter_model.safetensors",
        "training_args.bin",
    ):
        save_file({"other": torch.ones(1)}, both / name)
    make_tiny_gguf("llama", both / "model.gguf")
    (both / "pytorch_model.bin").write_bytes(b"not read")
    assert publish(str(both), "model", store).digest == old


def test_a_gguf_file_beside_them_is_taken_if_it_is_named(tmp_path: Path, store: ModelStore, old: str) -> None:
    expected = _digest(make_tiny_gguf("llama", tmp_path / "model.gguf"), store)
    shutil.copy(tmp_path / "model.gguf", tmp_path / "both/model.gguf")
    assert publish(str(tmp_path / "both/model.gguf"), "model", store).digest == expected


def test_pickles_come_before_safetensors_of_another_name(tmp_path: Path, store: ModelStore) -> None:
    """Only what transformers looks for by name is the model's."""
    source = make_tiny("llama", tmp_path / "source")
    expected = _digest(source, store)
    pickle_weights(source)
    save_file({"other": torch.ones(1)}, source / "adapter_model.safetensors")
    make_tiny_gguf("llama", source / "model.gguf")
    assert publish(str(source), "model", store).digest == expected


def test_a_variant_is_published_if_it_is_alone_or_named(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    expected = _digest(source, store)
    (source / _SINGLE).rename(source / "model.fp32.safetensors")
    assert publish(str(source), "alone", store).digest == expected
    save_file({"other": torch.ones(1)}, source / "model.fp16.safetensors")
    store.objects.remove("judge")
    store.objects.remove("alone")
    _refused(
        source, store, r"2 safetensors files \(model.fp16.safetensors, model.fp32.safetensors\) but no .*give the path"
    )
    assert publish(str(source / "model.fp32.safetensors"), "model", store).digest == expected


def test_a_variant_in_shards_is_named_by_its_index(tmp_path: Path, store: ModelStore, old: str) -> None:
    both = tmp_path / "both"
    (both / _INDEX).rename(both / "model.safetensors.index.fp32.json")
    assert publish(str(both / "model.safetensors.index.fp32.json"), "model", store).digest == old


def test_shards_that_nothing_joins_are_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path, shards=3)
    (tmp_path / _INDEX).unlink()
    _refused(tmp_path, store, r"\d safetensors files \(model-0.*\) but no model.safetensors.index.json that joins them")


def test_a_choice_is_another_version(tmp_path: Path, store: ModelStore, old: str, new: str) -> None:
    """What is published already is known by its files: naming the others publishes them."""
    first = publish(str(tmp_path / "both" / _SINGLE), "model", store)
    second = publish(str(tmp_path / "both" / _INDEX), "model", store)
    assert (first.digest, second.digest) == (new, old)
    assert publish(str(tmp_path / "both" / _INDEX), "model", store) == second


def test_files_are_named_behind_urls_and_on_the_hub(
    tmp_path: Path, hub: FakeHub, s3_objects: ObjectStore, store: ModelStore, old: str, new: str
) -> None:
    (hub.folder / "org/both").mkdir()
    for path in (tmp_path / "both").iterdir():
        s3_objects.write(f"raw/{path.name}", path.read_bytes())
        shutil.copy(path, hub.folder / "org/both")
    for name, digest in ((_SINGLE, new), (_INDEX, old)):
        published = publish(f"{s3_objects.url}/raw/{name}", f"s3-{name}", ModelStore(s3_objects))
        assert published.digest == digest
        assert publish(f"hf://org/both/{name}", f"hub-{name}", store).digest == digest
    with pytest.raises(SourceError, match="holds weights twice"):
        publish("org/both", "model", store)


def test_a_named_file_that_is_not_there_is_refused(hub: FakeHub, store: ModelStore) -> None:
    with pytest.raises(SourceError, match=r"org/tiny/model.fp16.safetensors does not exist"):
        publish("hf://org/tiny/model.fp16.safetensors", "model", store)
