"""A whole tiny model as one stage, whose weights lie in memory as on a GPU, and what a step of it launches."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from cluster.model_facts import model_config
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.building.model import StageModel
from cluster.stage.steps import Segment
from storage_tiers.checkpoint import unit_names
from storage_tiers.layouts import layout_of
from tests.cluster.triton_kernels import DEVICE, activation, matvec, norm, rotary
from tests.reference import load_reference
from tests.tiny import make_tiny

_TOGETHER = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias",
             "gate_proj.weight", "up_proj.weight")  # fmt: skip
_ROOM = 64
STEPS = (
    ((Segment(1, 5, 0, True, _ROOM), Segment(2, 3, 0, True, _ROOM)), (5, 9, 3, 77, 8, 200, 11, 40)),
    ((Segment(1, 1, 5, True, _ROOM), Segment(2, 1, 3, True, _ROOM)), (31, 7)),
    ((Segment(1, 1, 6, True, _ROOM),), (64,)),
)
"""A prompt each of two requests, then a token of both, then of one: (segments, tokens)."""
DECODE = (((Segment(1, 1, 5, True, _ROOM),), (31,)),)


def lay_together(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in one buffer on the device, those that go into one product one after the other, others with gaps."""

    def place(name: str) -> tuple[str, int]:
        ends = [end for end in _TOGETHER if name.endswith(end)]
        return (name.removesuffix(ends[0]), 1 + _TOGETHER.index(ends[0])) if ends else (name, 0)

    buffer = torch.zeros(2 * sum(t.numel() for t in tensors.values()) + 64 * len(tensors), device=DEVICE)
    laid, at = {}, 0
    for name in sorted(tensors, key=place):
        at += 0 if place(name)[1] else 16 - at % 16 + 16
        tensor = tensors[name]
        laid[name] = buffer[at : at + tensor.numel()].view(tensor.shape).copy_(tensor)
        at += tensor.numel()
    return laid


def make_stage(family: str, folder: Path, **overrides: Any) -> StageModel:
    """A random model of the family; its units are assigned."""
    source = make_tiny(family, folder, **{"seed": 3, **overrides})
    config = model_config(json.loads((source / "config.json").read_text()))
    model = StageModel(config, torch.float32, 0, config.num_hidden_layers, lambda _unit, _gate: None)
    weights = load_reference(source).state_dict()
    layout = layout_of(config.model_type)
    for unit in unit_names(config.num_hidden_layers):
        model.assign(unit, lay_together({name: t for name, t in weights.items() if layout.unit_of(name) == unit}))
    for name, buffer in list(model.named_buffers()):
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, buffer.to(DEVICE))
    return model.eval()


def run(model: StageModel, steps: Sequence[tuple[Sequence[Segment], Sequence[int]]] = STEPS) -> list[torch.Tensor]:
    """The logits of each step."""
    cache = SlabCache(model.layers, 512, DEVICE)
    logits = []
    with torch.inference_mode():
        for segments, tokens in steps:
            model.turn_to(cache.plan(segments))
            logits.append(model(torch.tensor([tokens], device=DEVICE)))
    return logits


class Launches(TorchDispatchMode):
    """Counts by name what torch is told to compute, without what launches nothing: views, mere memory, no dropout."""

    _NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "dropout")

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        viewed = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        name = func._schema.name.removeprefix("aten::")
        if not viewed and name not in self._NOTHING:
            self.ops[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Launches]:
    """Launches of what is run inside: a kernel of ours is one, by the name of its function."""
    launches = Launches()
    with pytest.MonkeyPatch.context() as patch, launches:
        for module, name in ((norm, "rms_norm"), (rotary, "rotate"), (activation, "gated"), (matvec, "matvec")):
            patch.setattr(module, name, _one(launches, name, getattr(module, name)))
        yield launches


def _one(launches: Launches, name: str, own: Any) -> Any:
    def launch(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            out = own(*args, **kwargs)
        launches.ops[name] += out is not None
        return out

    return launch
