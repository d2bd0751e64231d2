"""Where the families that we serve keep their parts: names of modules in transformers' models, hence of their tensors.

A family laid out the standard way (``model.embed_tokens``, ``model.layers.N``, ``model.norm``, ``lm_head``) needs no word
here but its name. What one needs beyond that is said once, as data, for those who cut its tensors into units and those who
build its stages. Whether a model is laid out so is read off an empty one when it is published
(`storage_tiers.publishing.families`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from storage_tiers.checkpoint import EMBED, HEAD, layer_unit


@dataclass(frozen=True)
class Layout:
    """Names of a family's parts. All but `base` and `output` are below `base`, the module that runs the layers.

    `positions`, where they are learned, are added to the embedding; `entry` and `exit` stand, where a model has them,
    between the embedding and the first layer and between the last layer and the output matrix. By its attributes
    `entry_factors` the base multiplies what goes into its first layer.
    """

    base: str = "model"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    exit: tuple[str, ...] = ("norm",)
    output: str = "lm_head"
    positions: tuple[str, ...] = ()
    entry: tuple[str, ...] = ()
    entry_factors: tuple[str, ...] = ()

    @property
    def embedding_weight(self) -> str:
        """The tensor that is also the output matrix where embeddings are tied."""
        return f"{self.path(self.embedding)}.weight"

    @property
    def output_weight(self) -> str:
        return f"{self.output}.weight"

    def path(self, part: str) -> str:
        """The whole name of a part that is below the base."""
        return f"{self.base}.{part}"

    def layer_of(self, tensor: str) -> int | None:
        """The decoder layer that the tensor is part of; None if it is part of none."""
        prefix = f"{self.path(self.layers)}."
        number = tensor[len(prefix) :].split(".", 1)[0] if tensor.startswith(prefix) else ""
        return int(number) if number.isdecimal() else None

    def unit_of(self, tensor: str) -> str | None:
        """The unit that holds the tensor; None if the layout has no place for it."""
        layer = self.layer_of(tensor)
        if layer is not None:
            return layer_unit(layer)
        module = tensor.rpartition(".")[0]
        if module in {self.path(part) for part in (self.embedding, *self.positions, *self.entry)}:
            return EMBED
        if module in {self.output, *map(self.path, self.exit)}:
            return HEAD
        return None


_STANDARD = Layout()
_OWN: Mapping[str, Layout] = {
    "falcon": Layout("transformer", "word_embeddings", "h", ("ln_f",)),
    "gpt2": Layout("transformer", "wte", "h", ("ln_f",), positions=("wpe",)),
    "gpt_neox": Layout("gpt_neox", "embed_in", exit=("final_layer_norm",)),
    "granite": Layout(entry_factors=("embedding_multiplier",)),
    "opt": Layout(
        "model.decoder", exit=("final_layer_norm", "project_out"), positions=("embed_positions",), entry=("project_in",)
    ),
}  # fmt: skip

SUPPORTED = tuple(sorted({
    "gemma", "gemma2", "gemma3_text", "llama", "mistral", "mixtral",
    "olmo2", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", *_OWN,
}))  # fmt: skip
"""Families that are proven, token by token, by a test on a small random model."""

REFUSED: Mapping[str, Mapping[str, str]] = {
    "falcon": {"alibi": "positions as biases of the attention (alibi); rotary ones are supported"},
    "gpt2": {"add_cross_attention": "attention to an encoder's output (add_cross_attention)"},
}
"""Options of a family that, when they are on, make a model that we do not serve, and what they are."""


def layout_of(family: str) -> Layout:
    """The layout of a supported family."""
    return _OWN.get(family, _STANDARD)
