"""What publishing a source will write, known and checked before the first byte is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from storage_tiers.checkpoint import Extent, TensorSpec, UnitLayout, lay_out
from storage_tiers.model_configs import check_sizes, check_stops, check_supported
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.families import (
    Skeleton,
    build_skeleton,
    check_tensors,
    cut_into_units,
    prevailing_dtype,
)
from storage_tiers.publishing.generation_config import check_generation
from storage_tiers.publishing.inplace import check_in_place, extents_of
from storage_tiers.publishing.sources.source import Source


@dataclass(frozen=True)
class Plan:
    """`extents` holds those of each unit if the model stays in place, else nothing."""

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    dtype: str
    tied: bool
    units: Mapping[str, UnitLayout]
    extents: Mapping[str, tuple[Extent, ...]]
    files: Mapping[str, bytes]
    pooling: Pooling | None = None


def make_plan(source: Source, dtype: str | None, *, in_place: bool) -> Plan:
    """Look at everything but the weights' bytes; whatever is wrong with the source is raised here, as SourceError."""
    config = source.config()
    check_supported(config)
    check_sizes(config, range(1, source.tensor_count() + 1))
    skeleton = build_skeleton(config)
    found = dict(source.tensors(skeleton))
    embedding, output = skeleton.layout.embedding_weight, skeleton.layout.output_weight
    if skeleton.tied and output in found and embedding in found:
        if _equal(source, found[embedding], found[output]):
            del found[output]
        else:  # transformers does the same: what the files hold outweighs what the configuration says
            config["tie_word_embeddings"] = False
            skeleton = build_skeleton(config)
    pooling = source.pooling(config)
    if pooling is not None and not skeleton.tied and output not in found:
        config["tie_word_embeddings"], pooling = True, replace(pooling, without_output=True)
        skeleton = build_skeleton(config)
    check_tensors(skeleton, found)
    stored_as = dtype or source.default_dtype or prevailing_dtype(found.values())
    if in_place:
        check_in_place(source, found.values(), stored_as)
    if config.get("dtype", config.get("torch_dtype")) != stored_as:
        config.pop("torch_dtype", None)
        config["dtype"] = stored_as
    config = json.loads(json.dumps(config))  # as it will read back: keys are strings
    specs = {tensor: TensorSpec(tensor, stored_as, spec.shape) for tensor, spec in found.items()}
    units = {unit: lay_out(tensors) for unit, tensors in cut_into_units(skeleton, specs).items()}
    return Plan(
        config=config,
        generation_config=_generation_config(source, skeleton),
        dtype=stored_as,
        tied=skeleton.tied,
        units=units,
        extents={unit: extents_of(source, layout) for unit, layout in units.items()} if in_place else {},
        files=source.files(config),
        pooling=pooling,
    )


def _generation_config(source: Source, skeleton: Skeleton) -> dict[str, Any]:
    given, vocabulary = source.generation_config(), skeleton.vocabulary
    check_generation(given, vocabulary)
    if given.get("eos_token_id") is None:
        stops = skeleton.eos_token_id
        known = [token for token in (stops if isinstance(stops, list) else [stops]) if token in range(vocabulary)]
        given["eos_token_id"] = known if isinstance(stops, list) and known else next(iter(known), None)
    check_stops(given)
    return given


def _equal(source: Source, one: TensorSpec, other: TensorSpec) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pieces = zip_longest(source.read(one.name, one.dtype), source.read(other.name, other.dtype))
    return all(left == right for left, right in pieces)
