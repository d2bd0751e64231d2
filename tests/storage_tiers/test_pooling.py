"""What sources say of embeddings is kept with what is published; what is odd keeps nothing from being published."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from storage_tiers.checkpoint import ROOT
from storage_tiers.errors import Corrupt, SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.sources.folders import LocalFolder
from storage_tiers.publishing.sources.pooling import gguf_pooling, pooling_files, pooling_of
from tests.embedders import make_embedder, modules, say_pooling, without_head
from tests.tiny import make_tiny
from tests.tiny_gguf import make_tiny_gguf


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(ObjectStore(f"file://{tmp_path / 'store'}"))


def _said(folder: Path, **config: Any) -> Pooling | None:
    return pooling_of(LocalFolder(folder), config)


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
def test_what_a_folder_says_is_published_and_read_again(store: ModelStore, tmp_path: Path, in_place: bool) -> None:
    source = make_embedder(tmp_path / "source", "lasttoken", normalized=True)
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    made = publish(str(source), "m", store, in_place=in_place)
    assert made.pooling == Pooling("last", normalized=True, max_tokens=128)
    assert store.open("m") == made


def test_a_folder_that_says_nothing_has_none(store: ModelStore, tmp_path: Path) -> None:
    source = make_tiny("qwen3", tmp_path / "source")
    assert publish(str(source), "m", store).pooling is None
    assert store.open("m").pooling is None


def test_a_model_that_was_saved_without_its_output_matrix_makes_vectors_alone(
    store: ModelStore, tmp_path: Path
) -> None:
    """As many are: an untied one has none then, a tied one has the embedding's; without pooling it is no model."""
    for tied in (False, True):
        source = without_head(make_embedder(tmp_path / f"tied-{tied}", "lasttoken", tied=tied))
        assert not any(name.startswith(("model.", "lm_head")) for name in load_file(source / "model.safetensors"))
        made = publish(str(source), f"tied-{tied}", store)
        assert made.pooling == Pooling("last", without_output=not tied)
        assert made.tied_embeddings
        assert store.open(f"tied-{tied}") == made
    (tmp_path / "tied-False" / "modules.json").unlink()
    with pytest.raises(SourceError, match="lm_head"):
        publish(str(tmp_path / "tied-False"), "neither", store)


def test_what_a_folder_says_anew_is_published_anew(store: ModelStore, tmp_path: Path) -> None:
    """Though nothing else has changed: neither the weights nor the tokenizer."""
    source = make_tiny("qwen3", tmp_path / "source")
    plain = publish(str(source), "m", store)
    say_pooling(source, "mean_tokens")
    mean = publish(str(source), "m", store)
    assert (mean.pooling, mean.digest) == (Pooling("mean"), plain.digest)
    say_pooling(source, "lasttoken")
    assert publish(str(source), "m", store).pooling == Pooling("last")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pooling_mode": "lasttoken"}, Pooling("last")),
        ({"pooling_mode": "mean", "embedding_dimension": 64}, Pooling("mean")),
        ({"pooling_mode": ["mean"]}, Pooling("mean")),
        ({"pooling_mode_mean_tokens": True}, Pooling("mean")),
        ({"pooling_mode": ["mean", "max"]}, Pooling(None, fault="it is pooled by mean and max")),
        ({"pooling_mode": "cls"}, Pooling(None, fault="it is pooled by cls")),
        ({"pooling_mode": 7}, Pooling(None, fault="it is pooled by 7")),
        ({"pooling_mode_cls_token": True}, Pooling(None, fault="it is pooled by cls_token")),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            Pooling(None, fault="it is pooled by cls_token and mean_tokens"),
        ),
        ({"word_embedding_dimension": 64}, Pooling(None, fault="its pooling is by nothing")),
        ([1], Pooling(None, fault="config.json of its pooling is no object")),
    ],
    ids=str,
)
def test_the_modes_are_read_in_both_ways_that_they_are_written_in(
    tmp_path: Path, given: Any, expected: Pooling
) -> None:
    assert _said(say_pooling(tmp_path, pooling=given)) == expected


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (modules("Transformer", "Pooling", "Dense", "Normalize"), "modules.json has a module Dense"),
        (modules("Transformer", "Pooling", "mine.Rescale"), "modules.json has a module mine.Rescale"),
        (modules("Transformer"), "modules.json has the modules Transformer, in this order"),
        (
            modules("Transformer", "Normalize", "Pooling"),
            "modules.json has the modules Transformer, Normalize, Pooling, in this order",
        ),
        ([{"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"}], "does not name modules"),
        ([{"type": 3}], "does not name modules"),
        ([], "does not name modules"),
        ({"modules": []}, "does not name modules"),
        (modules(*["Transformer"] * 40), "does not name modules"),
    ],
    ids=range(9),
)
def test_modules_that_we_do_not_know_are_named(tmp_path: Path, written: Any, fault: str) -> None:
    say_pooling(tmp_path, "mean_tokens")
    (tmp_path / "modules.json").write_text(json.dumps(written))
    found = _said(tmp_path)
    assert found is not None
    assert (found.mode, fault in found.fault) == (None, True), found


def test_newer_names_of_the_same_modules_are_known(tmp_path: Path) -> None:
    say_pooling(tmp_path, "mean_tokens", normalized=True)
    package = "sentence_transformers.sentence_transformer.modules"
    kinds = [f"{package}.{kind.lower()}.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    (tmp_path / "modules.json").write_text(json.dumps(modules(*kinds)))
    assert _said(tmp_path) == Pooling("mean", normalized=True)


def test_what_cannot_be_read_is_no_pooling_and_no_reason_not_to_publish(store: ModelStore, tmp_path: Path) -> None:
    source = make_embedder(tmp_path / "source", "mean_tokens")
    (source / "1_Pooling" / "config.json").write_text("{")
    made = publish(str(source), "m", store)
    assert made.pooling is not None
    assert (made.pooling.mode, "config.json of its pooling cannot be read" in made.pooling.fault) == (None, True)
    (source / "modules.json").write_text('[{"type": NaN}]')
    made = publish(str(source), "m", store)
    assert made.pooling is not None
    assert "modules.json of its pooling cannot be read" in made.pooling.fault
    assert store.open("m") == made


def test_models_that_see_what_is_behind_or_change_their_texts_are_refused(tmp_path: Path) -> None:
    say_pooling(tmp_path, "mean_tokens")
    for config in ({"use_bidirectional_attention": True}, {"is_causal": False}):
        found = _said(tmp_path, **config)
        assert found is not None
        assert (found.mode, "attend to those behind" in found.fault) == (None, True)
    say_pooling(tmp_path, "mean_tokens", do_lower_case=True)
    found = _said(tmp_path)
    assert found is not None
    assert (found.mode, "lower case" in found.fault) == (None, True)


def test_the_files_that_say_it_are_parts_of_the_source(tmp_path: Path) -> None:
    assert pooling_files(LocalFolder(tmp_path)) == {}
    say_pooling(tmp_path, "mean_tokens", max_seq_length=9)
    expected = {"modules.json", "sentence_bert_config.json", "1_Pooling/config.json"}
    assert set(pooling_files(LocalFolder(tmp_path))) == expected


def test_a_gguf_file_is_published_with_its_pooling(store: ModelStore, tmp_path: Path) -> None:
    for kind, expected in ((3, Pooling("last", True)), (0, None)):
        file = make_tiny_gguf("qwen3", tmp_path / f"{kind}.gguf", tied=True, metadata={"qwen3.pooling_type": kind})
        assert publish(str(file), f"gguf-{kind}", store).pooling == expected


def test_a_gguf_file_says_it_by_a_number() -> None:
    assert [gguf_pooling(kind) for kind in (None, 0)] == [None, None]
    assert (gguf_pooling(1), gguf_pooling(3)) == (Pooling("mean", True), Pooling("last", True))
    for odd in (2, 4, "last", True):
        found = gguf_pooling(odd)
        assert found is not None
        assert found.mode is None
        assert "pooling_type" in found.fault


@pytest.mark.parametrize("field", ["mode", "normalized", "max_tokens", "fault", "without_output"])
def test_a_root_whose_pooling_is_none_of_ours_is_corrupt(store: ModelStore, tmp_path: Path, field: str) -> None:
    publish(str(make_embedder(tmp_path / "source", "mean_tokens")), "m", store)
    root = tmp_path / "store" / "m" / ROOT
    written = json.loads(root.read_text())
    written["attributes"]["pooling"][field] = -1
    root.write_text(json.dumps(written))
    with pytest.raises(Corrupt, match=f"pooling.{field}"):
        store.open("m")


def test_a_model_that_was_published_before_says_nothing(store: ModelStore, tmp_path: Path) -> None:
    made = publish(str(make_embedder(tmp_path / "source", "mean_tokens")), "m", store)
    root = tmp_path / "store" / "m" / ROOT
    written = json.loads(root.read_text())
    del written["attributes"]["pooling"]
    root.write_text(json.dumps(written))
    assert store.open("m") == replace(made, pooling=None)
