"""What a root claims, against what is there; and files that are none."""

import json
import os
from pathlib import Path

import pytest

from storage_tiers.checkpoint import ROOT
from storage_tiers.errors import Corrupt
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.presence import check_present
from storage_tiers.publishing.publish import publish
from storage_tiers.tiers.trials import find_published
from tests.storage_tiers.tokenizers import byte_tokenizer
from tests.tiny import make_tiny


@pytest.fixture
def source(tmp_path: Path) -> Path:
    found = make_tiny("llama", tmp_path / "source", num_hidden_layers=1)
    byte_tokenizer().save(str(found / "tokenizer.json"))
    return found


@pytest.mark.parametrize("part", ["embed", "head", "files/tokenizer.json"])
def test_an_object_that_is_shorter_than_its_root_claims_is_found_without_being_read(
    part: str, source: Path, objects: ObjectStore
) -> None:
    """Memory was reserved by the claim, and what others had cached made room for it."""
    store = ModelStore(objects)
    checkpoint = publish(str(source), "model", store)
    check_present(store, checkpoint)
    key = f"model/{checkpoint.version}/{part}/c/0"
    objects.write(key, objects.read(key)[:-1])
    with pytest.raises(Corrupt, match=rf"{part}/c/0 of model model has [0-9,]+ bytes; its root claims"):
        check_present(store, checkpoint)
    objects.remove(key)
    with pytest.raises(Corrupt, match="is not there"):
        check_present(store, checkpoint)


def test_what_a_node_holds_need_not_be_in_the_store(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    lost = checkpoint.unit("head")
    store.objects.remove(store.unit_key("model", lost))
    check_present(store, checkpoint, {lost.digest})
    with pytest.raises(Corrupt, match="head/c/0 of model model is not there"):
        check_present(store, checkpoint, {checkpoint.unit("embed").digest})


def test_a_file_that_a_model_is_in_place_in_is_as_long_as_claimed(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store, in_place=True)
    check_present(store, checkpoint)
    weights = source / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(Corrupt, match=r"model\.safetensors of model model"):
        check_present(store, checkpoint)


def test_a_model_in_place_on_s3_costs_one_listing_of_its_folder(source: Path, s3_objects: ObjectStore) -> None:
    store = ModelStore(s3_objects)
    for path in source.iterdir():
        s3_objects.write(f"raw/tiny/{path.name}", path.read_bytes())
    checkpoint = publish(f"{s3_objects.url}/raw/tiny", "model", store, in_place=True)
    check_present(store, checkpoint)
    s3_objects.write("raw/tiny/model.safetensors", b"short")
    with pytest.raises(Corrupt, match="has 5 bytes"):
        check_present(store, checkpoint)


@pytest.mark.parametrize("url", ["/dev/zero", "/proc/self/environ"])
def test_a_device_is_no_file_to_read(url: str, source: Path, store: ModelStore) -> None:
    """A model may be in place in any file of the store's kind: what has no end, or none that is told, is not one."""
    checkpoint = publish(str(source), "model", store, in_place=True)
    text = store.objects.read(f"model/{ROOT}").decode()
    store.objects.write(
        f"model/{ROOT}", text.replace(f"file://{source / 'model.safetensors'}", f"file://{url}").encode()
    )
    lie = store.open("model")
    assert lie != checkpoint
    with pytest.raises(Corrupt):
        check_present(store, lie)
    with pytest.raises(Corrupt):
        store.read_unit_into("model", lie.unit("embed"), 0, memoryview(bytearray(4096)))


def test_a_pipe_in_the_store_holds_nobody_up(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    for key in (store.unit_key("model", checkpoint.unit("embed")), f"model/{ROOT}"):
        path = Path(store.objects.path(key))
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(Corrupt, match="not a plain file"):
        store.read_unit_into("model", checkpoint.unit("embed"), 0, memoryview(bytearray(4096)))
    with pytest.raises(Corrupt, match="not a plain file"):
        store.open("model")


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "a\x00b"])
def test_no_key_leads_out_of_the_store(key: str, store: ModelStore) -> None:
    with pytest.raises(Corrupt, match="not the key of an object"):
        store.objects.write(key, b"x")


def test_letters_that_were_changed_in_a_file_are_noticed_when_it_is_read(source: Path, store: ModelStore) -> None:
    """A chat template that somebody had changed in the store was served; only `verify` noticed."""
    checkpoint = publish(str(source), "model", store)
    (file,) = checkpoint.files
    path = Path(store.objects.path(store.unit_key("model", file)))
    path.write_bytes(path.read_bytes().replace(b"ByteLevel", b"BiteLevel", 1))
    with pytest.raises(Corrupt, match=r"tokenizer\.json of model model is not what was published"):
        store.read_file("model", file)


def test_measurements_leave_out_a_model_that_is_not_there(source: Path, store: ModelStore) -> None:
    whole = publish(str(source), "whole", store)
    larger = publish(str(make_tiny("llama", source.parent / "larger", hidden_size=128)), "larger", store)
    assert find_published(store).name == "larger"
    store.objects.remove(store.unit_key("larger", larger.units[0]))
    assert find_published(store).name == whole.name


def test_a_listing_leaves_out_what_is_no_models_name(store: ModelStore) -> None:
    for name in ("good", "_bad", "bad name", "a*"):
        store.objects.write(f"{name}/{ROOT}", json.dumps({}).encode())
    assert store.list() == ["good"]
