"""Publishing: what any zarr reader finds afterwards, and what nobody sees before."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage_tiers.checkpoint import ROOT
from storage_tiers.errors import SourceError, StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.progress import UnitProgress
from storage_tiers.publishing.publish import publish
from tests.published import files_by_zarr, same_bits, tensors_by_store, tensors_by_zarr
from tests.tiny import SUPPORTED_FAMILIES, make_tiny

_ROOT_FOLDER = Path(__file__).parents[2]


def _weights(folder: Path, tied: bool = False) -> dict[str, torch.Tensor]:
    """What transformers loads from `folder`, without the output matrix if that is the embedding."""
    weights = dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    if tied:
        del weights["lm_head.weight"]
    return weights


def _folder(store: ModelStore, name: str = "model") -> Path:
    return Path(store.objects.path(name))


@pytest.mark.parametrize("shards", [1, 3], ids=["one-file", "sharded"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_any_zarr_reader_finds_every_tensor(
    family: str, tied: bool, shards: int, tmp_path: Path, store: ModelStore
) -> None:
    source = make_tiny(family, tmp_path / "source", tied=tied, shards=shards)
    assert (source / "model.safetensors.index.json").exists() == (shards > 1)
    checkpoint = publish(str(source), "model", store)
    expected = _weights(source, tied)
    assert checkpoint.tied_embeddings == tied
    assert same_bits(tensors_by_zarr(_folder(store), consolidated=True), expected)
    assert same_bits(tensors_by_zarr(_folder(store), consolidated=False), expected)
    assert same_bits(tensors_by_store(store, checkpoint), expected)


def test_the_store_says_what_publish_returned(tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(str(make_tiny("qwen2", tmp_path / "source")), "org/model", store)
    assert store.list() == ["org/model"]
    assert store.open("org/model") == checkpoint


def test_units_come_in_the_order_of_use(tmp_path: Path, store: ModelStore) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source", tied=True)), "model", store)
    names = ["embed", "layer.0000", "layer.0001", "layer.0002", "layer.0003", "head"]
    assert [unit.name for unit in checkpoint.units] == names
    assert checkpoint.layers == 4
    assert [tensor.name for tensor in checkpoint.unit("embed").layout.tensors] == ["model.embed_tokens.weight"]
    assert [tensor.name for tensor in checkpoint.unit("head").layout.tensors] == ["model.norm.weight"]
    assert all(t.name.startswith("model.layers.2.") for t in checkpoint.unit("layer.0002").layout.tensors)


def test_a_model_is_published_to_s3_and_read_back(tmp_path: Path, s3_objects: ObjectStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    store = ModelStore(s3_objects)
    checkpoint = publish(str(source), "org/model", store)
    again = ModelStore(s3_objects)
    assert again.list() == ["org/model"]
    assert again.open("org/model") == checkpoint
    assert same_bits(tensors_by_store(again, checkpoint), _weights(source))


def test_zarr_opens_what_was_published_to_s3(tmp_path: Path, s3_objects: ObjectStore, s3_server: Any) -> None:
    """The server's buckets are folders, so that the objects it was given can be opened in place."""
    source = make_tiny("qwen3", tmp_path / "source")
    publish(str(source), "model", ModelStore(s3_objects))
    folder = s3_server.folder / s3_objects.path("model")
    assert same_bits(tensors_by_zarr(folder, consolidated=True), _weights(source))


def test_publishing_again_does_nothing(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    first = publish(str(source), "model", store)
    before = _times(_folder(store))
    assert publish(str(source), "model", store) == first
    assert _times(_folder(store)) == before


def test_a_changed_source_replaces_the_model_and_leaves_the_old_version_readable(
    tmp_path: Path, store: ModelStore
) -> None:
    first = publish(str(make_tiny("llama", tmp_path / "source", seed=1)), "model", store)
    old = tensors_by_store(store, first)
    source = make_tiny("llama", tmp_path / "source", seed=2)
    second = publish(str(source), "model", store)
    assert second.version != first.version
    assert second.digest != first.digest
    assert store.open("model") == second
    assert same_bits(tensors_by_store(store, second), _weights(source))
    assert same_bits(tensors_by_store(store, first), old)


def test_equal_models_have_equal_digests_wherever_they_come_from(tmp_path: Path, store: ModelStore) -> None:
    one = publish(str(make_tiny("llama", tmp_path / "one", seed=3)), "one", store)
    two = publish(str(make_tiny("llama", tmp_path / "two", seed=3, shards=4)), "two", store)
    assert one.digest == two.digest
    assert one.version != two.version
    assert [unit.digest for unit in one.units] == [unit.digest for unit in two.units]


def test_a_fine_tune_shares_the_units_it_left_alone(tmp_path: Path, store: ModelStore) -> None:
    one = publish(str(make_tiny("llama", tmp_path / "source")), "one", store)
    weights = load_file(tmp_path / "source/model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"] += 1
    save_file(weights, tmp_path / "source/model.safetensors", metadata={"format": "pt"})
    two = publish(str(tmp_path / "source"), "two", store)
    differing = [a.name for a, b in zip(one.units, two.units, strict=True) if a.digest != b.digest]
    assert differing == ["layer.0002"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted_if_asked_for(dtype: str, tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    checkpoint = publish(str(source), "model", store, dtype=dtype)
    assert checkpoint.dtype == checkpoint.config["dtype"] == dtype
    expected = {name: tensor.to(getattr(torch, dtype)) for name, tensor in _weights(source).items()}
    assert same_bits(tensors_by_zarr(_folder(store), consolidated=True), expected)


def test_weights_keep_their_type_otherwise(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", dtype="bfloat16")
    checkpoint = publish(str(source), "model", store)
    assert checkpoint.dtype == "bfloat16"
    assert same_bits(tensors_by_store(store, checkpoint), load_file(source / "model.safetensors"))


def test_a_few_tensors_of_another_type_are_made_like_the_rest(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", dtype="bfloat16")
    _rewrite(source, lambda weights: weights.update({"model.norm.weight": weights["model.norm.weight"].float()}))
    checkpoint = publish(str(source), "model", store)
    assert {tensor.dtype for unit in checkpoint.units for tensor in unit.layout.tensors} == {"bfloat16"}


def test_a_redundant_output_matrix_is_dropped(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", tied=True)
    _rewrite(source, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()}))
    checkpoint = publish(str(source), "model", store)
    assert checkpoint.tied_embeddings
    assert "lm_head.weight" not in tensors_by_store(store, checkpoint)


def test_an_output_matrix_of_its_own_outweighs_the_configuration(tmp_path: Path, store: ModelStore) -> None:
    """transformers unties such a model as well."""
    source = make_tiny("llama", tmp_path / "source", tied=True)
    _rewrite(source, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"] + 1}))
    checkpoint = publish(str(source), "model", store)
    assert not checkpoint.tied_embeddings
    assert checkpoint.config["tie_word_embeddings"] is False
    assert same_bits(tensors_by_store(store, checkpoint), _weights(source))


def test_recomputed_buffers_are_left_out(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    expected = _weights(source)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _rewrite(source, lambda weights: weights.update({name: torch.ones(8)}))
    assert same_bits(tensors_by_store(store, publish(str(source), "model", store)), expected)


def test_the_generation_config_names_the_end_of_text(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    (source / "generation_config.json").write_text('{"temperature": 0.5}')
    assert publish(str(source), "one", store).generation_config == {"temperature": 0.5, "eos_token_id": 2}
    (source / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert publish(str(source), "two", store).generation_config == {"eos_token_id": [7, 8]}
    (source / "generation_config.json").unlink()
    assert publish(str(source), "three", store).generation_config == {"eos_token_id": 2}


def test_the_tokenizer_travels_with_the_model(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    _save_tokenizer(source)
    checkpoint = publish(str(source), "model", store)
    names = {"tokenizer.json", "tokenizer_config.json"}
    assert names <= {file.name for file in checkpoint.files}
    for file in checkpoint.files:
        assert store.read_file("model", file) == (source / file.name).read_bytes()
    assert files_by_zarr(_folder(store)) == {f.name: (source / f.name).read_bytes() for f in checkpoint.files}


def test_a_slow_tokenizer_is_converted(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("qwen2", tmp_path / "source")
    letters = {chr(ord("a") + i): i for i in range(26)}
    (source / "vocab.json").write_text(json.dumps(letters | {"ab": 26, "<|endoftext|>": 27}))
    (source / "merges.txt").write_text("#version: 0.2\na b\n")
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    checkpoint = publish(str(source), "model", store)
    for file in checkpoint.files:
        (tmp_path / file.name).write_bytes(store.read_file("model", file))
    assert AutoTokenizer.from_pretrained(tmp_path)("abc")["input_ids"] == [26, 2]


def test_progress_rises_to_the_end(tmp_path: Path, store: ModelStore) -> None:
    seen: list[UnitProgress] = []
    checkpoint = publish(str(make_tiny("llama", tmp_path / "source")), "model", store, progress=seen.append)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert [p.units_done for p in seen] == sorted(p.units_done for p in seen)
    assert {p.unit for p in seen} == {unit.name for unit in checkpoint.units}
    assert (seen[-1].units_done, seen[-1].units_total) == (6, 6)
    assert seen[-1].bytes_done == seen[-1].bytes_total == checkpoint.size_bytes


@pytest.mark.parametrize("unit", ["embed", "layer.0002", "head"])
def test_an_interrupt_leaves_neither_a_model_nor_a_half_written_file(
    unit: str, tmp_path: Path, store: ModelStore
) -> None:
    def interrupt(progress: UnitProgress) -> None:
        if progress.unit == unit:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(str(make_tiny("llama", tmp_path / "source")), "model", store, progress=interrupt)
    assert store.list() == []
    assert not list(_folder(store).rglob("*.partial"))


def test_an_interrupt_on_s3_leaves_no_model(tmp_path: Path, s3_objects: ObjectStore) -> None:
    def interrupt(progress: UnitProgress) -> None:
        if progress.unit == "head":
            raise KeyboardInterrupt

    store, source = ModelStore(s3_objects), make_tiny("llama", tmp_path / "source")
    with pytest.raises(KeyboardInterrupt):
        publish(str(source), "model", store, progress=interrupt)
    assert store.list() == []
    assert same_bits(tensors_by_store(store, publish(str(source), "model", store)), _weights(source))


def test_a_source_that_changes_on_the_way_is_not_published(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")

    def change(progress: UnitProgress) -> None:
        os.utime(source / "config.json", ns=(0, progress.bytes_done))

    with pytest.raises(SourceError, match="changed while"):
        publish(str(source), "model", store, progress=change)
    assert store.list() == []


def test_a_damaged_root_is_replaced(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    checkpoint = publish(str(source), "model", store)
    store.objects.write(f"model/{ROOT}", b"{")
    assert publish(str(source), "model", store) == checkpoint == store.open("model")


def test_a_unit_that_was_cut_short_is_written_again(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    checkpoint = publish(str(source), "model", store)
    store.objects.remove(f"model/{ROOT}")
    os.truncate(store.objects.path(store.unit_key("model", checkpoint.units[2])), 4096)
    assert publish(str(source), "model", store) == checkpoint
    assert same_bits(tensors_by_store(store, checkpoint), _weights(source))


def test_a_name_that_will_not_do_is_refused_before_anything_is_read(store: ModelStore) -> None:
    with pytest.raises(StorageError, match="will not do"):
        publish("/nowhere", "../model", store)


_KILLED = """
import sys
from storage_tiers.publishing.publish import publish
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

def wait(progress):
    if progress.unit == "layer.0002":
        print(progress.units_done, flush=True)
        sys.stdin.read()

publish(sys.argv[1], "model", ModelStore(ObjectStore(sys.argv[2])), workers=1, progress=wait)
"""


def test_a_killed_publish_is_invisible_and_is_taken_up_where_it_stopped(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    whole = publish(str(source), "whole", store)
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(source), store.objects.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT_FOLDER,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"3\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert store.list() == ["whole"]
    assert list(_folder(store).rglob("*.partial"))
    finished = _times(_folder(store))

    checkpoint = publish(str(source), "model", store)

    after = _times(_folder(store))
    kept = {key for key in finished if "/c/0" in key and not key.endswith(".partial")}
    assert len(kept) == 3
    assert all(after[key] == finished[key] for key in kept)
    assert not list(_folder(store).rglob("*.partial"))
    assert checkpoint.digest == whole.digest
    assert same_bits(tensors_by_zarr(_folder(store), consolidated=False), _weights(source))


_MEASURED = """
import resource, sys
from storage_tiers.publishing.publish import publish
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

store = ModelStore(ObjectStore(sys.argv[3]))
publish(sys.argv[1], "small", store, dtype="float16")
before = peak_bytes()
publish(sys.argv[2], "large", store, dtype="float16")
print(peak_bytes() - before)
"""


def test_a_model_is_never_held_in_memory(tmp_path: Path) -> None:
    """Peak memory grows by a few pieces whatever the model's size, conversion included: 600 MB go through 150."""
    small = make_tiny("llama", tmp_path / "small")
    large = _make_large(tmp_path / "large")
    command = [sys.executable, "-c", _MEASURED, str(small), str(large), str(tmp_path / "store")]
    result = subprocess.run(command, capture_output=True, cwd=_ROOT_FOLDER, check=True, timeout=100)
    growth_bytes = int(result.stdout.split()[-1])
    assert (large / "model.safetensors").stat().st_size > 550_000_000
    assert growth_bytes < 150_000_000


def _make_large(folder: Path) -> Path:
    """A llama of about 600 MB in bfloat16, its weights one random block over and over."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "vocab_size": 24576, "num_attention_heads": 16}
    make_tiny("llama", folder, num_hidden_layers=1, hidden_size=64)
    config = json.loads((folder / "config.json").read_text()) | sizes
    config |= {"num_key_value_heads": 16, "head_dim": 128, "num_hidden_layers": 4, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        shapes = {name: list(t.shape) for name, t in LlamaForCausalLM(LlamaConfig(**config)).state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text, block = json.dumps(header).encode(), torch.randn(1 << 19).bfloat16().view(torch.uint8).numpy().tobytes()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(block[: end - start] for start in range(0, end, len(block)))
    return folder


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 3, "world": 4}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", chat_template="{{ messages }}")
    fast.save_pretrained(folder)
