"""What a published model of a supported family must hold, and how it is cut into units.

What a model must hold is read off an empty transformers model of its configuration: names and shapes are theirs, not ours.
torch and transformers are imported only when such a skeleton is built.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage_tiers.checkpoint import WEIGHT_DTYPES, TensorSpec, unit_names
from storage_tiers.errors import SourceError, StorageError, UnsupportedModel
from storage_tiers.layouts import Layout, layout_of
from storage_tiers.model_configs import without_code

_RECOMPUTED = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
    r"|\.(attn|attention)\.(bias|masked_bias)$"  # old files' causal masks
)
_NAMED_AT_MOST = 5
_ROPE_NUMBERS = {
    "factor": 1 << 31, "original_max_position_embeddings": 1 << 31, "short_factor": 1 << 31, "long_factor": 1 << 31,
    "rope_theta": 1e15,
}  # fmt: skip
"""The greatest that each of the numbers may be which positions are rotated by."""


@dataclass(frozen=True)
class Skeleton:
    """An empty model: its tensors' shapes by name, without the output matrix where that is the embedding again.

    `module` is transformers' own, on the meta device; `eos_token_id` is the configuration's or its class's default.
    """

    module: Any
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]
    layers: int
    tied: bool
    eos_token_id: int | list[int] | None

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return self.shapes[self.layout.embedding_weight][0]


def build_skeleton(config: Mapping[str, Any]) -> Skeleton:
    """The empty model of a configuration that model_configs has found supported and of a size that there can be.

    SourceError if transformers cannot build it, UnsupportedModel if it is not laid out as its family is.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    try:
        parsed = CONFIG_MAPPING[config["model_type"]].from_dict(without_code(config))
        _check_positions(parsed)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(parsed, trust_remote_code=False)
    except StorageError:
        raise
    except Exception as error:  # whatever a wrong value makes transformers raise
        raise SourceError(f"the configuration does not describe a model ({type(error).__name__}: {error})") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    layout = layout_of(config["model_type"])
    tied = layout.output_weight in module.all_tied_weights_keys
    if tied:
        del shapes[layout.output_weight]
    skeleton = Skeleton(module, layout, shapes, parsed.num_hidden_layers, tied, parsed.eos_token_id)
    _check_layout(skeleton)
    return skeleton


def is_recomputed(name: str) -> bool:
    """Whether `name` is a buffer that some files carry and every model computes for itself."""
    return _RECOMPUTED.search(name) is not None


def check_tensors(skeleton: Skeleton, found: Mapping[str, TensorSpec]) -> None:
    """Raise SourceError, naming the first few, if tensors are missing, unknown or of another shape than the model's."""
    missing = [name for name in skeleton.shapes if name not in found]
    if missing:
        layers = sorted({layer for name in missing if (layer := skeleton.layout.layer_of(name)) is not None})
        where = f" (layers {_some(map(str, layers))} of {skeleton.layers})" if layers else ""
        raise SourceError(f"{len(missing)} tensors are missing{where}: {_some(missing)}")
    unknown = sorted(name for name in found if name not in skeleton.shapes)
    if unknown:
        raise SourceError(f"{len(unknown)} tensors have no place in the model: {_some(unknown)}")
    for name, shape in skeleton.shapes.items():
        if found[name].shape != shape:
            raise SourceError(f"{name} has shape {list(found[name].shape)}, but the configuration says {list(shape)}")
    odd = sorted(name for name in found if found[name].dtype not in WEIGHT_DTYPES)
    if odd:
        raise UnsupportedModel(f"{len(odd)} tensors are {found[odd[0]].dtype}, not of a floating type: {_some(odd)}")


def cut_into_units(skeleton: Skeleton, tensors: Mapping[str, TensorSpec]) -> dict[str, tuple[TensorSpec, ...]]:
    """The units in the order of use, each with its tensors by name: embedding, every layer, head."""
    units: dict[str, list[TensorSpec]] = {name: [] for name in unit_names(skeleton.layers)}
    for name in sorted(tensors):
        unit = skeleton.layout.unit_of(name)
        assert unit is not None
        units[unit].append(tensors[name])
    return {name: tuple(specs) for name, specs in units.items()}


def _check_positions(parsed: Any) -> None:
    """Raise what transformers only warns of, or computes with: rotations by numbers that lead nowhere."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = getattr(parsed, "rope_parameters", None) or {}
    for kind in [parameters[layers] for layers in parsed.nested_rope_parameter_keys(parameters)] or [parameters]:
        scaling = (kind or {}).get("rope_type", "default")
        if scaling != "default" and scaling not in ROPE_INIT_FUNCTIONS:
            raise UnsupportedModel(
                f"rope scaling of type {scaling!r} is not supported for family {parsed.model_type!r}"
            )
        for name in _ROPE_NUMBERS.keys() & (kind or {}).keys():
            numbers = kind[name] if isinstance(kind[name], list) else [kind[name]]
            most = _ROPE_NUMBERS[name]
            if not all(0 < number <= most for number in numbers if isinstance(number, int | float)):
                raise SourceError(f"the rope parameters have {name} {kind[name]}: use numbers above 0, up to {most:g}")
        if scaling == "longrope" and len(kind["short_factor"]) != len(kind["long_factor"]):
            raise SourceError("the rope parameters' short_factor and long_factor are not equally long")


def _check_layout(skeleton: Skeleton) -> None:
    layout, module = skeleton.layout, skeleton.module
    homeless = [name for name in skeleton.shapes if layout.unit_of(name) is None]
    if homeless:
        raise UnsupportedModel(f"{len(homeless)} tensors of the model belong to no unit: {_some(homeless)}")
    ends = module.get_input_embeddings(), module.get_output_embeddings()
    if ends != tuple(module.get_submodule(name) for name in (layout.path(layout.embedding), layout.output)):
        raise UnsupportedModel("the model's embedding and output matrix are not where its family has them")


def prevailing_dtype(tensors: Iterable[TensorSpec]) -> str:
    """The data type that most elements have."""
    elements: dict[str, int] = {}
    for tensor in tensors:
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return max(elements, key=lambda dtype: elements[dtype])


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED_AT_MOST} more" if len(listed) > _NAMED_AT_MOST else ""
    return ", ".join(listed[:_NAMED_AT_MOST]) + more
