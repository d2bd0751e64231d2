"""Shapes against the numbers of weights that their publishers name."""

import pytest

from schedules.capacity.errors import BadQuestion
from schedules.capacity.shapes import SHAPES, SIZES, shape

BILLIONS = {
    "llama-3.2-1b": 1.236, "llama-3.2-3b": 3.213, "llama-3.1-8b": 8.030, "llama-3.1-70b": 70.554,
    "llama-3.1-405b": 405.853, "llama-2-7b": 6.738, "llama-2-13b": 13.016, "mistral-7b": 7.248, "qwen2.5-7b": 7.616,
    "qwen2.5-14b": 14.770, "qwen2.5-32b": 32.764, "qwen2.5-72b": 72.706,
}  # fmt: skip


def test_models_are_as_large_as_they_are_published() -> None:
    found = {name: shape(name).model(name).size_bytes / 2e9 for name in SHAPES}
    assert found == pytest.approx(BILLIONS, rel=1e-3)


def test_a_token_of_llama_3_8b_keeps_128_kib() -> None:
    model = shape("8B").model("mine")
    assert (model.kv_bytes_per_token, model.layers, model.units[0].name, model.units[-1].name) == (
        128 << 10, 32, "embed", "head",
    )  # fmt: skip
    assert not set(model.digests) & set(shape("8b").model("other").digests)


def test_a_size_stands_for_a_model_of_about_that_size() -> None:
    for size, name in SIZES.items():
        assert BILLIONS[name] == pytest.approx(float(size.removesuffix("b")), rel=0.25)


def test_a_model_that_nobody_knows_is_a_sentence() -> None:
    with pytest.raises(BadQuestion, match=r"nobody knows how large '9b' is: give a published model, llama-3\.2-1b, "):
        shape("9b")
