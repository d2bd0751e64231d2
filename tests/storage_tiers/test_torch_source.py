"""Weights that torch.save wrote: the same model as safetensors hold, and no code of theirs is ever run."""

import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.published import same_bits, tensors_by_store
from tests.tiny import make_tiny


def pickle_weights(folder: Path, files: int = 1) -> Path:
    """Turn a folder of safetensors into one of pickles, as transformers once saved them."""
    weights: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
        file.unlink()
    if files == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    names = [f"pytorch_model-{i + 1:05d}-of-{files:05d}.bin" for i in range(files)]
    weight_map = {tensor: names[i % files] for i, tensor in enumerate(weights)}
    for name in names:
        torch.save({tensor: weights[tensor] for tensor in weights if weight_map[tensor] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


class _Bomb:
    """Unpickled without restraint it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._trace),)


def _refused(source: Path, store: ModelStore, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        publish(str(source), "model", store)
    assert store.list() == []


@pytest.mark.parametrize("files", [1, 4], ids=["one-file", "sharded"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_pickles_hold_the_same_model_as_safetensors(family: str, files: int, tmp_path: Path, store: ModelStore) -> None:
    expected = publish(str(make_tiny(family, tmp_path / "source")), "expected", store)
    source = pickle_weights(tmp_path / "source", files)
    assert publish(str(source), "model", store).digest == expected.digest


def test_types_are_converted(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    expected = {name: tensor.bfloat16() for name, tensor in load_file(source / "model.safetensors").items()}
    checkpoint = publish(str(pickle_weights(source)), "model", store, dtype="bfloat16")
    assert same_bits(tensors_by_store(store, checkpoint), expected)


def test_views_are_stored_as_what_they_show(tmp_path: Path, store: ModelStore) -> None:
    """A pickle may hold a transposed or shared storage."""
    source = make_tiny("llama", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    expected = publish(str(source), "expected", store)
    (source / "model.safetensors").unlink()
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].T.contiguous().T
    torch.save(weights, source / "pytorch_model.bin")
    assert publish(str(source), "model", store).digest == expected.digest


def test_safetensors_come_first(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(b"not read")
    publish(str(source), "model", store)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "plain pickle"])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(zipped: bool, tmp_path: Path, store: ModelStore) -> None:
    source = pickle_weights(make_tiny("llama", tmp_path / "source"))
    trace = tmp_path / "exploded"
    content = {"model.norm.weight": _Bomb(trace)}
    if zipped:
        torch.save(content, source / "pytorch_model.bin")
    else:
        (source / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    _refused(source, store, "refused: unpickling it would run code" if zipped else "cannot read|refused")
    assert not trace.exists()
    torch.load(source / "pytorch_model.bin", weights_only=False) if zipped else pickle.loads(pickle.dumps(content))
    assert trace.exists(), "the bomb was a dud, and the test proved nothing"


def test_what_is_no_state_dict_is_refused(tmp_path: Path, store: ModelStore) -> None:
    source = pickle_weights(make_tiny("llama", tmp_path / "source"))
    torch.save({"model": {"weight": torch.ones(1)}}, source / "pytorch_model.bin")
    _refused(source, store, "it is no state_dict")
    torch.save([torch.ones(1)], source / "pytorch_model.bin")
    _refused(source, store, "it is no state_dict")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path, store: ModelStore) -> None:
    source = pickle_weights(make_tiny("llama", tmp_path / "source"))
    file = source / "pytorch_model.bin"
    os.truncate(file, int(file.stat().st_size * share))
    _refused(source, store, "cannot read .*pytorch_model.bin: damaged, cut short")


def test_a_missing_shard_is_named(tmp_path: Path, store: ModelStore) -> None:
    source = pickle_weights(make_tiny("llama", tmp_path / "source"), files=3)
    (source / "pytorch_model-00002-of-00003.bin").unlink()
    _refused(source, store, "names pytorch_model-00002-of-00003.bin, which .* does not hold")


def test_pickles_cannot_be_served_in_place(tmp_path: Path, store: ModelStore) -> None:
    source = pickle_weights(make_tiny("llama", tmp_path / "source"))
    with pytest.raises(SourceError, match="pickled weights, which cannot be served in place"):
        publish(str(source), "model", store, in_place=True)


def test_shards_of_a_remote_folder_take_the_room_of_two_at_most(
    tmp_path: Path, s3_objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is copied, mapped and unlinked: nothing of them is left by name even while they are read."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    store, source = ModelStore(s3_objects), make_tiny("llama", tmp_path / "source")
    expected = publish(str(source), "expected", store)
    for path in pickle_weights(source, files=4).iterdir():
        s3_objects.write(f"raw/{path.name}", path.read_bytes())
    mapped: list[int] = []

    def look(_progress: object) -> None:
        maps = Path("/proc/self/maps").read_text().splitlines()
        mapped.append(len({line.split()[4] for line in maps if str(tmp_path / "temporary") in line}))
        assert not list((tmp_path / "temporary").iterdir())

    assert publish(f"{s3_objects.url}/raw", "model", store, progress=look).digest == expected.digest
    assert 1 <= max(mapped) <= 3
