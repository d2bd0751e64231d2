"""Sources that lie about themselves: publishing says so, soon, and without the memory that they claim."""

import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_tiers.bounded_json import parse_json
from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.choice import open_source
from storage_tiers.publishing.plan import make_plan
from storage_tiers.publishing.sources import model_folder
from storage_tiers.publishing.sources.folders import LocalFolder
from storage_tiers.publishing.sources.gguf_header import check_header
from storage_tiers.publishing.sources.safetensors_source import read_header
from tests.tiny import make_tiny
from tests.tiny_gguf import make_tiny_gguf

MOST_SPENT_BYTES = 64 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("tiny") / "source", num_hidden_layers=2)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_tiny_gguf("llama", tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


def _spent(call: Callable[[], object]) -> int:
    """Bytes that Python held at once while the call was refused as a SourceError or ValueError, or succeeded."""
    tracemalloc.start()
    try:
        call()
    except (SourceError, ValueError):
        pass
    finally:
        spent_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return spent_bytes


def _plan(folder: Path, store: ModelStore) -> None:
    make_plan(open_source(str(folder), store.objects), None, in_place=False)


def _copy(tiny: Path, folder: Path, **changes: Any) -> Path:
    """The tiny model with another configuration."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1000},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": True},
        {"model_type": "gpt2", "n_layer": 10**9},
        {"model_type": "gemma2", "num_hidden_layers": 10**9},
        {"num_labels": 10**10},
        {"hidden_size": 10**12},
        {"hidden_size": float("nan")},
        {"quantization_config": "yes"},
        {"x": json.loads("[" * 100 + "]" * 100)},
    ],
    ids=str,
)
def test_a_configuration_without_a_model_is_refused_before_one_is_built(
    change: dict[str, Any], tiny: Path, tmp_path: Path, store: ModelStore
) -> None:
    """transformers makes a layer for every one that is named: ten to the ninth ran until the machine was out of memory."""
    with pytest.raises(SourceError):
        _plan(_copy(tiny, tmp_path / "source", **change), store)


def test_a_configuration_cannot_name_code_to_compute_with(tiny: Path, tmp_path: Path, store: ModelStore) -> None:
    """transformers would fetch it from the hub."""
    _plan(_copy(tiny, tmp_path / "source", attn_implementation="someone/kernel", auto_map={"AutoConfig": "x.Y"}), store)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', "9" * 5000])
def test_what_is_not_json_by_the_letter_is_refused(
    name: str, text: str, tiny: Path, tmp_path: Path, store: ModelStore
) -> None:
    folder = _copy(tiny, tmp_path / "source")
    (folder / name).write_text(text)
    with pytest.raises(SourceError, match=name):
        _plan(folder, store)


def test_what_is_held_whole_is_small(
    tiny: Path, tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copy(tiny, tmp_path / "source")
    (folder / "tokenizer.json").write_text("x" * 2000)
    monkeypatch.setattr(model_folder, "FILES_LIMIT_BYTES", 1000)
    with pytest.raises(SourceError, match=r"tokenizer\.json has 2,000 bytes, 1,000 at most"):
        _plan(folder, store)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_a_safetensors_header_may_be_anything(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, length: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for claimed in (length, len(body)):
        (folder / "any.safetensors").write_bytes(claimed.to_bytes(8, "little") + body)
        assert _spent(lambda: read_header(LocalFolder(folder), "any.safetensors")) < MOST_SPENT_BYTES


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**30)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.one_of(st.just("F32"), _ANY),
        "shape": st.one_of(st.just([2**30] * 9), st.just([2**62, 2**62]), _ANY),
        "data_offsets": st.one_of(st.just([0, 8]), _ANY),
    },
)


@settings(max_examples=80)
@given(st.dictionaries(st.text(max_size=8), st.one_of(_ENTRY, _ANY), max_size=4))
def test_what_a_safetensors_header_says_may_be_anything(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]
) -> None:
    folder, text = tmp_path_factory.getbasetemp(), json.dumps(header).encode()
    (folder / "said.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert _spent(lambda: read_header(LocalFolder(folder), "said.safetensors")) < MOST_SPENT_BYTES


@settings(max_examples=60)
@given(
    option=st.sampled_from(["num_hidden_layers", "hidden_size", "model_type", "vocab_size", "layer_types", "new"]),
    value=_ANY,
)
def test_a_configuration_may_say_anything(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, option: str, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "configured"
    store = ModelStore(ObjectStore(str(folder.parent / "store")))
    _copy(tiny, folder, **{option: value})
    assert _spent(lambda: _plan(folder, store)) < MOST_SPENT_BYTES


# ---- GGUF


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0) + bytes(26),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40) + bytes(26),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 0, 1 << 40),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 3) + bytes(8),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(26),
        b"XXXX" + struct.pack("<IQQ", 3, 0, 0) + bytes(26),
    ],
    ids=["empty", "cut", "tensors", "fields", "name", "list", "nested list", "version", "magic"],
)
def test_a_gguf_file_that_claims_more_than_it_has_is_refused_at_once(
    file: bytes, tmp_path: Path, store: ModelStore
) -> None:
    """Fifty bytes that claimed 2 to the 40 entries kept gguf's reader busy for a minute."""
    (tmp_path / "model.gguf").write_bytes(file)
    with pytest.raises(SourceError, match="is damaged or was cut short"):
        _plan(tmp_path / "model.gguf", store)


def test_a_gguf_file_has_no_more_layers_than_tensors(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("llama", tmp_path / "model.gguf", metadata={"llama.block_count": 10**9})
    with pytest.raises(SourceError, match=r"claims 1,000,000,000 layers and has \d+ tensors"):
        _plan(file, store)


@settings(max_examples=150)
@given(data=st.data())
def test_any_bytes_of_a_gguf_header_may_be_wrong(
    tmp_path_factory: pytest.TempPathFactory, gguf: bytes, data: st.DataObject
) -> None:
    """It is refused, or what it claims is in the file."""
    file, changed = tmp_path_factory.getbasetemp() / "any.gguf", bytearray(gguf)
    at = data.draw(st.integers(0, 1500), "at")
    wrong = data.draw(
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\xff" * 4 + bytes(4)]))
    )
    changed[at : at + len(wrong)] = wrong
    file.write_bytes(changed[: data.draw(st.sampled_from([len(changed), at + 8]), "length")])
    assert _spent(lambda: check_header(file)) < MOST_SPENT_BYTES


def test_real_gguf_files_pass(gguf: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf)
    check_header(tmp_path / "model.gguf")


# ---- torch


def test_a_torch_archive_that_is_packed_is_refused(tiny: Path, tmp_path: Path, store: ModelStore) -> None:
    """A megabyte of it can become a gigabyte in memory."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps("x" * 10_000_000))
    with pytest.raises(SourceError, match="its entries are compressed"):
        _plan(folder, store)


def test_a_tensor_is_no_larger_than_the_bytes_that_it_is_made_of(tiny: Path, tmp_path: Path, store: ModelStore) -> None:
    """A file of a few bytes can hold a tensor of any shape, one number for all its elements."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    torch.save({"model.embed_tokens.weight": torch.zeros(1).expand(256, 64)}, folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match="larger than the bytes it is made of"):
        _plan(folder, store)


# ---- JSON


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", '{"a": 1, "a": 1}', "[" * 5000, "1" * 5000, ""])
def test_json_that_others_would_read_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode())
