"""Weights that are no numbers, or would be none in the type that they are published in, are refused by the tensor's name."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.published import same_bits, tensors_by_store
from tests.tiny import make_tiny
from tests.tiny_gguf import make_tiny_gguf

_NAME = "model.layers.2.mlp.up_proj.weight"
_Save = Callable[[dict[str, torch.Tensor], Path], None]


def _as_safetensors(weights: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _as_pickle(weights: dict[str, torch.Tensor], folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _model(folder: Path, value: float, dtype: torch.dtype, save: _Save) -> Path:
    """A model in `dtype`, one of whose last numbers is `value`."""
    make_tiny("llama", folder)
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    weights[_NAME][-1, -2] = value
    save(weights, folder)
    return folder


def _refused(source: Path, store: ModelStore, message: str, dtype: str | None = None) -> None:
    with pytest.raises(SourceError, match=message):
        publish(str(source), "model", store, dtype=dtype)
    assert store.list() == []


@pytest.mark.parametrize("save", [_as_safetensors, _as_pickle])
@pytest.mark.parametrize(
    ("value", "own", "dtype"),
    [
        (1e38, torch.bfloat16, "float16"),
        (-70_000.0, torch.float32, "float16"),
        (3.4e38, torch.float32, "bfloat16"),
        (-1e39, torch.float64, "float32"),
    ],
)
def test_a_number_that_the_type_has_no_room_for_is_refused(
    value: float, own: torch.dtype, dtype: str, save: _Save, tmp_path: Path, store: ModelStore
) -> None:
    """It became infinite without a word, and everything that the model said afterwards was arbitrary."""
    name = str(own).removeprefix("torch.")
    message = f"tensor {re.escape(_NAME)} holds numbers that are too great for {dtype}: publish in {name}"
    _refused(_model(tmp_path, value, own, save), store, message, dtype)


@pytest.mark.parametrize("save", [_as_safetensors, _as_pickle])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("own", "dtype"), [(torch.bfloat16, None), (torch.float32, None), (torch.float32, "bfloat16")])
def test_weights_that_are_no_numbers_are_refused(
    own: torch.dtype, dtype: str | None, value: float, save: _Save, tmp_path: Path, store: ModelStore
) -> None:
    message = f"tensor {re.escape(_NAME)} holds NaN or infinite numbers: the weights are damaged"
    _refused(_model(tmp_path, value, own, save), store, message, dtype)


def test_gguf_files_are_held_to_it_too(tmp_path: Path, store: ModelStore) -> None:
    """Their tensors are float32 when they are unpacked, and bfloat16 unless told otherwise."""
    file = make_tiny_gguf("llama", tmp_path / "model.gguf", quantisation="F32")
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32(3.4e38).tobytes()
    file.write_bytes(data)
    _refused(file, store, "tensor .*weight holds numbers that are too great for bfloat16: publish in float32")
    data[-4:] = np.float32("nan").tobytes()
    file.write_bytes(data)
    _refused(file, store, "tensor .*weight holds NaN or infinite numbers")


def test_numbers_that_round_to_nothing_or_just_fit_are_taken(tmp_path: Path, store: ModelStore) -> None:
    source = _model(tmp_path, 65_504.0, torch.float32, _as_safetensors)
    weights = load_file(source / "model.safetensors")
    weights[_NAME][0, 0] = 1e-30
    _as_safetensors(weights, source)
    published = tensors_by_store(store, publish(str(source), "model", store, dtype="float16"))
    assert same_bits(published, {name: weight.half() for name, weight in weights.items()})
