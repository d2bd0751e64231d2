"""From tensors as files hold them to tensors as transformers' modules have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.publishing.families import Skeleton


@dataclass(frozen=True)
class StoredTensor:
    """A tensor under the name that its file has for it; its bytes begin at `offset_bytes` of `file`, where that matters."""

    spec: TensorSpec
    file: str
    offset_bytes: int = 0


def assemble(
    skeleton: Skeleton, stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, TensorSpec], dict[str, tuple[StoredTensor, ...]]]:
    """Specs and parts of the model's tensors, by transformers' own mapping: experts stored one by one are used as one.

    The bytes of a joined tensor are those of its parts in a row, so nothing is held to join them.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(skeleton.module)
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    names = skeleton.module.state_dict()
    groups: dict[str, dict[str | None, list[StoredTensor]]] = {}
    for own in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(own, renamings, converters, skeleton.module.base_model_prefix, names)
        groups.setdefault(name, {}).setdefault(pattern, []).append(stored[own])
    specs, parts = {}, {}
    for name, group in groups.items():
        if None in group:
            if len(group) > 1 or len(group[None]) > 1:
                raise SourceError(f"several stored tensors claim to be {name}")
            parts[name], shape = tuple(group[None]), group[None][0].spec.shape
        else:
            converter = by_pattern[next(pattern for pattern in group if pattern is not None)]
            parts[name], shape = _join(
                name, [group.get(p, []) for p in converter.source_patterns], converter.operations
            )
        specs[name] = TensorSpec(name, parts[name][0].spec.dtype, shape)
    return specs, parts


def _join(
    name: str, lists: Sequence[Sequence[StoredTensor]], operations: Sequence[Any]
) -> tuple[tuple[StoredTensor, ...], tuple[int, ...]]:
    """Parts and shape of ``cat([stack(l) for l in lists], dim=1)``."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    stacks = [op for op in operations if isinstance(op, MergeModulelist) and op.dim == 0]
    joins = [op for op in operations if isinstance(op, Concatenate) and op.dim == 1]
    if len(stacks) != 1 or len(joins) != len(lists) - 1 or len(stacks) + len(joins) != len(operations):
        raise UnsupportedModel(f"{name} is stored in a form that is not supported ({operations})")
    if len({len(stack) for stack in lists}) != 1:
        raise SourceError(
            f"a part of {name} is missing: there are {[len(stack) for stack in lists]} parts of each kind"
        )
    if len({(t.spec.shape[1:], t.spec.dtype) for stack in lists for t in stack}) != 1 or any(
        len({t.spec.shape for t in stack}) != 1 for stack in lists
    ):
        raise SourceError(f"the parts of {name} differ in shape or type")
    first = lists[0][0].spec.shape
    rows = sum(stack[0].spec.shape[0] for stack in lists)
    return tuple(t for expert in zip(*lists, strict=True) for t in expert), (len(lists[0]), rows, *first[1:])
