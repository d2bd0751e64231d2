"""Defaults for generating: kept whole, and refused before they are stored if nobody could use them."""

import json
from pathlib import Path
from typing import Any

import pytest

from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from tests.tiny import make_tiny


def test_what_the_source_says_is_kept_whole(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    given = {
        "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05,
        "eos_token_id": [2, 7], "pad_token_id": 999, "max_new_tokens": 100, "somebody_else": {"a": [1, None]},
    }  # fmt: skip
    (source / "generation_config.json").write_text(json.dumps(given))
    assert publish(str(source), "model", store).generation_config == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eos_token_id": 256}, r"would end with token 256 \(eos_token_id\), but the model has tokens 0 to 255"),
        ({"eos_token_id": [2, 300]}, "would end with token 300"),
        ({"eos_token_id": "2"}, "would end with token '2'"),
        ({"eos_token_id": [True]}, "would end with token True"),
        ({"temperature": "hot"}, "temperature 'hot', with which nothing can be sampled"),
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"min_p": -1}, "min_p -1"),
        ({"top_k": [20]}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty 0"),
        ({"cache_implementation": "nonsense"}, "the generation configuration cannot be used"),
    ],
)
def test_what_nobody_could_use_is_refused(
    given: dict[str, Any], message: str, tmp_path: Path, store: ModelStore
) -> None:
    source = make_tiny("llama", tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps(given))
    with pytest.raises(SourceError, match=message):
        publish(str(source), "model", store)
    assert store.list() == []


@pytest.mark.parametrize("text", ['{"temperature": NaN}', '{"temperature": Infinity}', '{"top_p": 1e999}'])
def test_numbers_that_are_none_are_refused(text: str, tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    (source / "generation_config.json").write_text(text)
    with pytest.raises(SourceError, match=r"generation_config.json"):
        publish(str(source), "model", store)


def test_a_default_of_the_family_that_is_no_token_ends_nothing(tmp_path: Path, store: ModelStore) -> None:
    """Where nobody has said what ends an answer, the class of the configuration may name a token of a larger vocabulary."""
    source = make_tiny("phi3", tmp_path / "source", eos_token_id=None)
    config = json.loads((source / "config.json").read_text())
    del config["eos_token_id"]
    (source / "config.json").write_text(json.dumps(config))
    (source / "generation_config.json").unlink(missing_ok=True)
    assert publish(str(source), "model", store).generation_config == {"eos_token_id": None}
