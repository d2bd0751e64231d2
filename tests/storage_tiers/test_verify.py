"""Verification: every kind of damage is found and named, and soundness is not doubted."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from storage_tiers.checkpoint import ROOT, Blocks, Checkpoint, root_metadata
from storage_tiers.errors import Corrupt, Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.progress import UnitProgress
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.verify import Damage, verify
from tests.storage_tiers.handmade import flip
from tests.storage_tiers.tokenizers import byte_tokenizer, save_tokenizer
from tests.tiny import make_tiny


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tiny("llama", tmp_path / "source")


def _object(store: ModelStore, checkpoint: Checkpoint, unit: str) -> Path:
    return Path(store.objects.path(store.unit_key(checkpoint.name, checkpoint.unit(unit))))


def _damages(store: ModelStore) -> tuple[Damage, ...]:
    return verify(store, "model").damages


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in-place"])
def test_a_published_model_is_sound(in_place: bool, source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store, in_place=in_place)
    result = verify(store, "model")
    assert (result.checkpoint, result.damages) == (checkpoint, ())


def test_a_model_on_s3_is_sound(source: Path, s3_objects: ObjectStore) -> None:
    store = ModelStore(s3_objects)
    publish(str(source), "model", store)
    assert verify(store, "model").damages == ()


def test_a_flipped_bit_is_found_in_its_unit_and_chunk(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    flip(_object(store, checkpoint, "layer.0001"), 5000)
    assert _damages(store) == (Damage("layer.0001", "chunk 0 of 1 has another crc32c than the index says"),)


def test_a_flipped_bit_in_an_indexed_file_is_found(source: Path, store: ModelStore) -> None:
    publish(str(source), "model", store, in_place=True)
    flip(source / "model.safetensors", (source / "model.safetensors").stat().st_size - 1)
    (damage,) = _damages(store)
    assert "another crc32c" in damage.problem


def test_a_changed_checksum_of_a_block_is_found(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    units = [
        replace(unit, blocks=unit.blocks and Blocks(16384, bytes(len(unit.blocks.crc32c)))) for unit in checkpoint.units
    ]
    store.objects.write(f"model/{ROOT}", json.dumps(root_metadata(replace(checkpoint, units=tuple(units)))).encode())
    problems = [damage.problem for damage in _damages(store) if damage.part == "embed"]
    assert problems[0] == "the checksums of its blocks are not those of its bytes"


def test_damage_in_a_padding_byte_is_found(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    head = checkpoint.unit("head")
    flip(_object(store, checkpoint, "head"), head.layout.tensors[-1].offset_bytes - 1)
    assert [damage.part for damage in _damages(store)] == ["head"]


def test_damage_in_several_parts_is_listed_in_order(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    for unit in ("layer.0003", "embed"):
        flip(_object(store, checkpoint, unit), 0)
    assert [damage.part for damage in _damages(store)] == ["embed", "layer.0003"]


def test_a_damaged_shard_index_is_found(source: Path, store: ModelStore) -> None:
    """Our loads do not use it, zarr readers do."""
    checkpoint = publish(str(source), "model", store)
    unit = checkpoint.unit("head")
    flip(_object(store, checkpoint, "head"), unit.size_bytes + 1)
    assert _damages(store) == (Damage("head", "its shard index is damaged: zarr readers cannot open it"),)


def test_a_missing_object_is_found(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    _object(store, checkpoint, "embed").unlink()
    (damage,) = _damages(store)
    assert damage.part == "embed"
    assert damage.problem.endswith("is not there")


@pytest.mark.parametrize("change_bytes", [-4096, -1, 1])
def test_an_object_of_another_length_is_found(change_bytes: int, source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    path = _object(store, checkpoint, "layer.0002")
    os.truncate(path, path.stat().st_size + change_bytes)
    assert [damage.part for damage in _damages(store)] == ["layer.0002"]


def test_array_metadata_that_differs_from_the_roots_is_found(source: Path, store: ModelStore) -> None:
    checkpoint = publish(str(source), "model", store)
    store.objects.write(f"model/{checkpoint.unit('embed').path}/{ROOT}", b"{}")
    store.objects.remove(f"model/{checkpoint.unit('head').path}/{ROOT}")
    assert _damages(store) == (
        Damage("embed", "its zarr.json is not what the root metadata says"),
        Damage("head", "its zarr.json is missing or damaged"),
    )


def test_a_changed_configuration_is_found(source: Path, store: ModelStore) -> None:
    publish(str(source), "model", store)
    root = json.loads(store.objects.read(f"model/{ROOT}"))
    root["attributes"]["config"]["rope_theta"] = 7
    store.objects.write(f"model/{ROOT}", json.dumps(root).encode())
    with pytest.raises(Corrupt, match="the root metadata was changed"):
        verify(store, "model")


def test_a_damaged_file_is_found(source: Path, store: ModelStore) -> None:
    save_tokenizer(source, byte_tokenizer())
    checkpoint = publish(str(source), "model", store)
    file = next(file for file in checkpoint.files if file.name == "tokenizer.json")
    flip(Path(store.objects.path(store.unit_key("model", file))), 0)
    assert [damage.part for damage in _damages(store)] == ["tokenizer.json"]


def test_without_a_root_there_is_nothing_to_verify(store: ModelStore) -> None:
    with pytest.raises(Missing, match="no model 'model'"):
        verify(store, "model")
    store.objects.write(f"model/{ROOT}", b"{")
    with pytest.raises(Corrupt):
        verify(store, "model")


def test_progress_rises_to_the_end(source: Path, store: ModelStore) -> None:
    seen: list[UnitProgress] = []
    publish(str(source), "model", store)
    verify(store, "model", progress=seen.append)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert seen[-1].units_done == seen[-1].units_total
    assert seen[-1].bytes_done == seen[-1].bytes_total > 0
