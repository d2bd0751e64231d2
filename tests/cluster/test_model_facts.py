"""What is read off a configuration."""

from typing import Any

import pytest

from cluster.model_facts import context_tokens, learned_positions, model_config, renewal_border

_SMALL = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _context(family: str, **options: Any) -> int:
    return context_tokens(model_config({**_SMALL, "model_type": family, **options}))


@pytest.mark.parametrize("spelling", ["rope_scaling type", "rope_scaling rope_type", "rope_parameters rope_type"])
@pytest.mark.parametrize(
    ("scaling", "start", "reached"),
    [
        ({"type": "default"}, 64, 64),
        ({"type": "linear", "factor": 4.0}, 64, 256),
        ({"type": "dynamic", "factor": 2.0}, 64, 128),
        ({"type": "dynamic", "factor": 2.5}, 65, 162),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128, 128),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 32, 128),
        ({"type": "yarn", "factor": 4.0}, 32, 128),
        ({"type": "yarn", "factor": None, "original_max_position_embeddings": 32}, 96, 96),
        ({"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32, **_LLAMA3}, 256, 256),
        ({"type": "longrope", "original_max_position_embeddings": 32, **_FACTORS}, 128, 128),
        ({"type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32, **_FACTORS}, 128, 128),
    ],
)
def test_a_context_is_as_long_as_scaling_makes_it(
    scaling: dict[str, Any], start: int, reached: int, spelling: str
) -> None:
    """It was max_position_embeddings, which for some kinds counts what the model had before it was stretched: prompts that
    it was made for were refused. Old and new configurations spell the kind in three ways."""
    key, kind = spelling.split()
    options = {name: value for name, value in scaling.items() if name != "type"} | {kind: scaling["type"]}
    assert _context("llama", max_position_embeddings=start, rope_theta=10000.0, **{key: options}) == reached


def test_gemma_3_counts_what_its_scaling_reaches() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    assert _context("gemma3_text", max_position_embeddings=512, rope_scaling=scaling) == 512


def test_phi_3_names_its_border_beside_its_scaling() -> None:
    options = {"max_position_embeddings": 256, "original_max_position_embeddings": 64}
    config = model_config(
        {
            **_SMALL,
            "model_type": "phi3",
            **options,
            "rope_scaling": {"type": "longrope", **_FACTORS, "rope_theta": 10000.0},
        }
    )
    assert (context_tokens(config), renewal_border(config)) == (256, 64)


@pytest.mark.parametrize(("family", "learned"), [("gpt2", 64), ("opt", 64), ("falcon", None), ("llama", None)])
def test_some_families_learn_their_positions(family: str, learned: int | None) -> None:
    config = model_config({**_SMALL, "model_type": family, "max_position_embeddings": 64})
    assert learned_positions(config) == learned


@pytest.mark.parametrize("family", ["gpt2", "opt", "falcon", "gpt_neox", "mistral"])
def test_what_is_not_scaled_has_its_positions(family: str) -> None:
    assert _context(family, max_position_embeddings=64) == 64
