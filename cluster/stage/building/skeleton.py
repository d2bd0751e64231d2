"""A transformers model on meta, truncated to what one stage computes: its layers, and at the ends what stands there.

Where a family has its parts says storage_tiers.layouts; here is what follows from it, and no family is named.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.initialization import no_init_weights

from cluster.errors import StageFailed
from cluster.stage.attending import attention
from storage_tiers.checkpoint import EMBED, HEAD, layer_unit
from storage_tiers.layouts import Layout, layout_of


@dataclass(frozen=True)
class Part:
    """A module that a unit fills, wholly or in part: by the checkpoint's name of each tensor, the module's own."""

    unit: str
    module: nn.Module
    names: Mapping[str, str]


@dataclass(frozen=True)
class Skeleton:
    """`lm` is the causal language model, `base` what runs the `layers` in it; `parts` are in the order of use.

    `embedding` is there at the first stage only.
    """

    lm: Any
    base: Any
    layers: nn.ModuleList
    embedding: Any
    parts: tuple[Part, ...]


def build_skeleton(config: PretrainedConfig, dtype: torch.dtype, first_layer: int, end_layer: int) -> Skeleton:
    """Layers [first_layer, end_layer) of the model; before the first and after the last what the model has there.

    StageFailed if it needs a buffer that no checkpoint has and that we do not know how to compute.
    """
    layout = layout_of(config.model_type)
    first, last = first_layer == 0, end_layer == config.num_hidden_layers
    attention.adapt(config.model_type)
    lm = _truncated(config, dtype, first_layer, end_layer, layout)
    base = lm.get_submodule(layout.base)
    _restore_buffers(base, layout)
    if not first:
        _cut_entry(base, layout)
    if not last:
        _replace(base, layout.exit, nn.Identity)
        setattr(lm, layout.output, None)
    left = [name for name, buffer in lm.named_buffers() if buffer.is_meta and name not in lm.state_dict()]
    if left:
        raise StageFailed(f"{config.model_type}: buffers {left} are not in the checkpoint")
    layers = getattr(base, layout.layers)
    parts = _entry_parts(base, layout) if first else []
    prefix = layout.path(layout.layers)
    parts += [_part(layer_unit(i), layer, f"{prefix}.{i}") for i, layer in enumerate(layers, start=first_layer)]
    if last:
        parts += _exit_parts(lm, base, layout, tied=bool(config.tie_word_embeddings))
    return Skeleton(lm, base, layers, getattr(base, layout.embedding), tuple(parts))


def _truncated(config: PretrainedConfig, dtype: torch.dtype, first_layer: int, end_layer: int, layout: Layout) -> Any:
    """The model with these layers alone.

    A layer is made by its number in the whole model, since in some families it differs by that; the configuration of
    what loops over the layers is one of these alone.
    """
    local = copy.deepcopy(config)
    _set_layers(local, config, first_layer, first_layer + 1)
    default = torch.get_default_dtype()
    try:
        with torch.device("meta"), no_init_weights():  # what would be drawn on meta has no numbers, and takes a fourth
            lm = AutoModelForCausalLM.from_config(local, dtype=dtype, attn_implementation=attention.NAME)
            base = lm.get_submodule(layout.base)
            whole = copy.deepcopy(base.config)
            _set_layers(whole, config, 0, config.num_hidden_layers)
            _set_layers(base.config, config, first_layer, end_layer)
            make = type(getattr(base, layout.layers)[0])
            torch.set_default_dtype(dtype)
            setattr(base, layout.layers, nn.ModuleList(make(whole, i) for i in range(first_layer, end_layer)))
    finally:
        torch.set_default_dtype(default)
    return lm.eval()


def _set_layers(config: PretrainedConfig, whole: PretrainedConfig, first_layer: int, end_layer: int) -> None:
    config.num_hidden_layers = end_layer - first_layer
    if getattr(whole, "layer_types", None):
        config.layer_types = list(whole.layer_types[first_layer:end_layer])


def _restore_buffers(base: Any, layout: Layout) -> None:
    """Compute the buffers that checkpoints do not hold: rotary frequencies and scaled embeddings' factors."""
    if hasattr(base, "rotary_emb"):
        base.rotary_emb = type(base.rotary_emb)(config=base.config)
    embedding = getattr(base, layout.embedding)
    scale = getattr(embedding, "embed_scale", None)
    if scale is not None and scale.is_meta:
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)


class _Zero(nn.Module):
    """In the place of learned positions where the hidden states have them already."""

    def forward(self, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        return torch.zeros(())


def _cut_entry(base: Any, layout: Layout) -> None:
    """What comes in are hidden states: nothing is done to them before the first layer."""
    setattr(base, layout.embedding, None)
    _replace(base, layout.positions, _Zero)
    _replace(base, layout.entry, nn.Identity)
    for factor in layout.entry_factors:
        setattr(base, factor, 1.0)


def _replace(base: Any, names: Sequence[str], kind: type[nn.Module]) -> None:
    for name in names:
        if getattr(base, name) is not None:
            setattr(base, name, kind())


def _part(unit: str, module: nn.Module, prefix: str) -> Part:
    return Part(unit, module, {f"{prefix}.{own}": own for own in module.state_dict()})


def _below(unit: str, base: Any, layout: Layout, names: Sequence[str]) -> Iterator[Part]:
    for name in names:
        module = getattr(base, name)
        if module is not None:
            yield _part(unit, module, layout.path(name))


def _entry_parts(base: Any, layout: Layout) -> list[Part]:
    return list(_below(EMBED, base, layout, (layout.embedding, *layout.positions, *layout.entry)))


def _exit_parts(lm: Any, base: Any, layout: Layout, tied: bool) -> list[Part]:
    """A tied output matrix gets the embedding's tensor, but is no longer the embedding's module's."""
    parts = list(_below(HEAD, base, layout, layout.exit))
    output = _part(HEAD, getattr(lm, layout.output), layout.output)
    if not tied:
        return [*parts, output]
    bias = {name: own for name, own in output.names.items() if name != layout.output_weight}
    parts += [Part(HEAD, output.module, bias)] if bias else []
    return [*parts, Part(EMBED, output.module, {layout.embedding_weight: "weight"})]
