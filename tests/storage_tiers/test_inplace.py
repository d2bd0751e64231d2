"""Models in place: the same units as a copy has, made of ranges of the files that are there already."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from fsspec.implementations.reference import ReferenceFileSystem
from safetensors.torch import load_file, save_file
from zarr.errors import MetadataValidationError
from zarr.storage import FsspecStore

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import Corrupt, Missing, SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.inplace import REFERENCES
from storage_tiers.publishing.progress import UnitProgress
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.verify import verify
from storage_tiers.tiers.remote import RemoteTier
from tests.s3_server import S3Server
from tests.storage_tiers.handmade import flip
from tests.tiny import SUPPORTED_FAMILIES, make_tiny
from tests.tiny_gguf import make_tiny_gguf


def _bytes_of(store: ModelStore, checkpoint: Checkpoint, unit: str) -> bytes:
    index = checkpoint.unit(unit)
    buffer = bytearray(b"\xff" * index.size_bytes)
    store.read_unit_into(checkpoint.name, index, 0, memoryview(buffer))
    return bytes(buffer)


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("shards", [1, 3], ids=["one-file", "sharded"])
@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_units_in_place_are_those_of_a_copy(family: str, shards: int, tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny(family, tmp_path / "source", shards=shards)
    copied = publish(str(source), "copied", store)
    indexed = publish(str(source), "indexed", store, in_place=True)
    assert [unit.digest for unit in indexed.units] == [unit.digest for unit in copied.units]
    assert indexed.digest == copied.digest
    assert all(unit.extents for unit in indexed.units)
    for unit in copied.units:
        assert _bytes_of(store, indexed, unit.name) == _bytes_of(store, copied, unit.name)


def test_no_weights_are_copied(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    checkpoint = publish(str(source), "model", store, in_place=True)
    assert not list(Path(store.objects.path("model")).rglob("c/0"))
    assert _stored_bytes(Path(store.objects.path("model"))) < checkpoint.size_bytes / 5


def test_the_store_says_what_publish_returned(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("qwen3_moe", tmp_path / "source")
    checkpoint = publish(str(source), "model", store, in_place=True)
    assert store.open("model") == checkpoint
    assert publish(str(source), "model", store, in_place=True) == checkpoint


@pytest.mark.parametrize("step", [1000, 4096, 5000, 100_000])
def test_any_range_of_a_unit_can_be_read(step: int, tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store, in_place=True)
    unit, whole = checkpoint.unit("layer.0001"), _bytes_of(store, checkpoint, "layer.0001")
    for start in range(0, unit.size_bytes, step):
        view = memoryview(bytearray(b"\xff" * min(step, unit.size_bytes - start)))
        store.read_unit_into("model", unit, start, view)
        assert bytes(view) == whole[start : start + len(view)]


def test_a_model_on_s3_is_served_in_place(tmp_path: Path, s3_objects: ObjectStore, s3_server: S3Server) -> None:
    """Folder and store share a server; the folder's URL stands in the index, its credentials do not."""
    store, source = ModelStore(s3_objects), make_tiny("llama", tmp_path / "source", shards=2)
    for path in source.iterdir():
        s3_objects.write(f"raw/tiny/{path.name}", path.read_bytes())
    url = f"{s3_objects.url}/raw/tiny"
    checkpoint = publish(url, "model", store, in_place=True)
    assert {e.url.rpartition("/")[0] for unit in checkpoint.units for e in unit.extents} == {url}
    assert s3_server.secret.encode() not in s3_objects.read("model/zarr.json")
    assert verify(store, "model").damages == ()


def test_the_tier_that_nodes_load_from_serves_units_in_place(tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store, in_place=True)
    unit = checkpoint.unit("layer.0001")
    memory = memoryview(bytearray(b"\xff" * unit.size_bytes))
    RemoteTier(store).read("model", unit, 0, [memory[:5000], memory[5000:]])
    assert bytes(memory) == _bytes_of(store, checkpoint, "layer.0001")
    assert store.is_local(unit)


def test_a_changed_file_is_noticed_and_an_absent_one_is_missing(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    checkpoint = publish(str(source), "model", store, in_place=True)
    file = source / "model.safetensors"
    flip(file, file.stat().st_size - 1)
    assert len(verify(store, "model").damages) == 1
    file.write_bytes(file.read_bytes()[:-1])
    last = max(
        (e.offset_bytes, unit.name) for unit in checkpoint.units for e in unit.extents
    )[1]  # fmt: skip
    with pytest.raises(Corrupt, match="too early"):
        _bytes_of(store, checkpoint, last)
    file.unlink()
    with pytest.raises(Missing, match=r"model\.safetensors"):
        _bytes_of(store, checkpoint, "embed")


def test_an_interrupted_index_is_taken_up(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")

    def interrupt(progress: UnitProgress) -> None:
        if progress.unit == "layer.0002":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(str(source), "model", store, in_place=True, workers=1, progress=interrupt)
    assert store.list() == []
    finished = {path: path.stat().st_mtime_ns for path in Path(store.objects.path("model")).rglob("layer*/zarr.json")}
    assert len(finished) in (2, 3)  # the unit at which it was interrupted may just have been done
    publish(str(source), "model", store, in_place=True)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in finished.items())
    assert verify(store, "model").damages == ()


def test_progress_rises_to_the_end(tmp_path: Path, store: ModelStore) -> None:
    seen: list[UnitProgress] = []
    publish(str(make_tiny("llama", tmp_path / "source")), "model", store, in_place=True, progress=seen.append)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert seen[-1].bytes_done == seen[-1].bytes_total > 0


def test_a_moved_folder_is_another_version(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    first = publish(str(source), "model", store, in_place=True)
    source.rename(tmp_path / "moved")
    second = publish(str(tmp_path / "moved"), "model", store, in_place=True)
    assert second.version != first.version
    assert second.digest == first.digest
    assert verify(store, "model").damages == ()


def test_what_would_be_converted_is_refused(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    with pytest.raises(SourceError, match=r"cannot be served in place in bfloat16.*is float32"):
        publish(str(source), "model", store, in_place=True, dtype="bfloat16")
    weights = load_file(source / "model.safetensors")
    save_file(weights | {"model.norm.weight": torch.ones(64).half()}, source / "model.safetensors")
    with pytest.raises(SourceError, match=r"in float32: model.norm.weight is float16.*publish a copy"):
        publish(str(source), "model", store, in_place=True)
    assert store.list() == []


def test_what_is_quantised_is_refused(tmp_path: Path, store: ModelStore) -> None:
    with pytest.raises(SourceError, match="quantised, so that it cannot be served in place"):
        publish(str(make_tiny_gguf("llama", tmp_path / "model.gguf")), "model", store, in_place=True)


def test_zarr_readers_refuse_the_units_instead_of_showing_zeros(tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store, in_place=True)
    folder = Path(store.objects.path("model"))
    with pytest.raises(MetadataValidationError, match="firsttoken_extents"):
        zarr.open_array(folder / checkpoint.unit("embed").path, mode="r")


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_zarr_readers_find_the_tensors_through_the_references(family: str, tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny(family, tmp_path / "source", shards=2)
    checkpoint = publish(str(source), "model", store, in_place=True)
    table = store.objects.path(f"model/{checkpoint.version}/{REFERENCES}")
    opened: Any = zarr.open_group(
        FsspecStore(ReferenceFileSystem(fo=table, asynchronous=True), read_only=True), mode="r"
    )
    for unit in checkpoint.units:
        whole = _bytes_of(store, checkpoint, unit.name)
        for tensor in unit.layout.tensors:
            array = opened[f"{unit.name}/{tensor.name}"]
            assert array[:].tobytes() == whole[tensor.offset_bytes : tensor.offset_bytes + tensor.size_bytes]
            assert (array.attrs["dtype"], tuple(array.attrs["shape"])) == (tensor.dtype, tensor.shape)


@pytest.mark.parametrize(
    "change", [{"at": 1}, {"nbytes": 0}, {"offset": -1}, {"nbytes": 4}, {"at": 1 << 40}, {"url": None, "at": "x"}]
)
def test_damaged_extents_are_corrupt(change: dict[str, Any], tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store, in_place=True)
    root = json.loads(store.objects.read("model/zarr.json"))
    node = root["consolidated_metadata"]["metadata"][checkpoint.unit("layer.0001").path]
    node["firsttoken_extents"]["extents"][0] |= change
    store.objects.write("model/zarr.json", json.dumps(root).encode())
    with pytest.raises(Corrupt):
        store.open("model")
