"""A stage's part of the model: a truncated transformers model on meta, inside DeepSpeed's PipelineModule.

The skeleton has every module of the stage and no weight. A unit's tensors are assigned as soon as its bytes are there;
until then the forward pass waits in front of the module that needs them, so a stage computes while it loads.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import deepspeed.comm
import torch
from deepspeed.pipe import LayerSpec, PipelineModule
from torch import nn
from transformers import PretrainedConfig

from cluster.stage.attending.attention import Attention
from cluster.stage.attending.paged import PagedPlan
from cluster.stage.attending.rotation import Rotation
from cluster.stage.attending.slabs import StepPlan
from cluster.stage.building.gate import Gate, WaitForUnit
from cluster.stage.building.lookup import AskForRows, Lookup
from cluster.stage.building.skeleton import build_skeleton
from cluster.stage.stepping.fusing import Fusing
from storage_tiers.checkpoint import EMBED

Tensors = Mapping[str, torch.Tensor]


class StageModel(nn.Module):
    """Layers [first_layer, end_layer) of a decoder-only transformers model.

    Input: token ids (1, T) int64 at the first stage, hidden states (1, T, hidden) elsewhere. Output: hidden states, at
    the last stage the logits (1, N, vocabulary) of the N positions whose next token is wanted. What the T tokens are,
    of which requests and at which positions, is set by `turn_to` before a forward pass.

    With `fusing` set, products of what is assigned from then on are joined where its bytes lie so.
    With `ask` the first stage begins with the rows of its tokens, for which it asks, before it has the embedding's unit.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        dtype: torch.dtype,
        first_layer: int,
        end_layer: int,
        wait: WaitForUnit,
        ask: AskForRows | None = None,
    ) -> None:
        super().__init__()
        self.first, self.last = first_layer == 0, end_layer == config.num_hidden_layers
        self.first_layer, self.end_layer = first_layer, end_layer
        self._skeleton = build_skeleton(config, dtype, first_layer, end_layer)
        self.lm = self._skeleton.lm
        self.on_module: Callable[[], None] = lambda: None  # called before each layer computes
        self.fusing: Fusing | None = None
        self._gates: dict[str, Gate] = {}
        self._wait = wait
        self._lookup: Lookup | None = None
        for part in self._skeleton.parts:
            gate = self._gates.setdefault(part.unit, Gate())
            if ask is not None and part.module is self._skeleton.embedding:
                self._lookup = Lookup(part.module, gate, wait, ask)
                part.module.register_forward_pre_hook(lambda _module, _inputs: self.on_module())
            else:
                part.module.register_forward_pre_hook(self._waiter(part.unit))
        rotary = getattr(self._skeleton.base, "rotary_emb", None)
        self._rotation = Rotation(rotary) if rotary is not None else None
        self._kept: torch.Tensor | None = None
        self._keeps = False
        self._skeleton.base.register_forward_hook(self._keep)
        self.attention = Attention(first_layer)
        for module in self._skeleton.layers.modules():
            if hasattr(module, "layer_idx"):
                module.firsttoken_attention = self.attention

    @property
    def layers(self) -> int:
        return self.end_layer - self.first_layer

    def turn_to(self, plan: StepPlan | PagedPlan) -> None:
        """The next forward pass is for the tokens of `plan`."""
        self.attention.plan = plan
        if self._rotation is not None:
            self._rotation.turn_to(plan.segments)

    def keep_hidden(self) -> None:
        """`take_hidden` shall have what the next forward pass gives before the output matrix."""
        self._keeps = True

    def take_hidden(self) -> torch.Tensor:
        """The hidden states (1, T, width) of the pass that was to keep them, at the last stage behind the final norm."""
        hidden, self._kept, self._keeps = self._kept, None, False
        assert hidden is not None
        return hidden

    def _keep(self, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        if self._keeps:
            self._kept = outputs.last_hidden_state

    @property
    def complete(self) -> bool:
        """Whether every unit is there."""
        return all(gate.is_open for gate in self._gates.values())

    @property
    def repeats(self) -> bool:
        """Whether a step computes the same whatever its requests' lengths are, but for the cache's tensors."""
        return self._rotation is None or not self._rotation.changes

    def assign(self, unit: str, tensors: Tensors) -> None:
        """Take a unit's tensors, named as in the checkpoint, and let the passes that wait for it go on."""
        for part in self._skeleton.parts:
            if part.unit == unit:
                own = {part.names[name]: tensors[name] for name in part.names}
                part.module.load_state_dict(own, strict=False, assign=True)
                if self.fusing is not None:
                    self.fusing.join(part.module)
        self._gates.setdefault(unit, Gate()).open()
        if self._lookup is not None and unit == EMBED:
            self._lookup.finish()

    def take_rows(self, rows: Sequence[int], data: bytes) -> None:
        """Rows that were asked for: their bytes one after the other. RuntimeError if there are more or fewer."""
        if self._lookup is not None:
            self._lookup.take(rows, data)

    def fail(self, cause: str) -> None:
        """No more units will come."""
        for gate in self._gates.values():
            gate.fail(cause)
        if self._lookup is not None:
            self._lookup.fail(cause)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plan = self.attention.plan
        assert plan is not None
        inputs = {"input_ids": x} if self.first else {"inputs_embeds": x}
        common = {"position_ids": plan.positions, "use_cache": False, **inputs}
        if self.last:
            logits: torch.Tensor = self.lm(**common, logits_to_keep=plan.last).logits
            return logits
        hidden: torch.Tensor = self._skeleton.base(**common).last_hidden_state
        return hidden

    def _waiter(self, unit: str) -> Callable[[nn.Module, Any], None]:
        def wait(_module: nn.Module, _inputs: Any) -> None:
            gate = self._gates[unit]
            self.on_module()
            if not gate.is_open:
                self._wait(unit, gate)

        return wait


class _MetaPipelineModule(PipelineModule):
    """DeepSpeed's PipelineModule for parts that are still on meta, one spec a stage."""

    def to(self, *args: Any, **kwargs: Any) -> "nn.Module":
        meta = any(parameter.is_meta for parameter in self.parameters())
        return self if meta else super().to(*args, **kwargs)

    def _partition_layers(self, method: str = "uniform") -> None:
        stage = self._topo.get_coord(self.global_rank).pipe
        self.parts = list(range(self.num_stages + 1))
        self._set_bounds(start=stage, stop=stage + 1)


@contextlib.contextmanager
def _one_group() -> Iterator[None]:
    """DeepSpeed would make a group for each axis of training, about three a stage: each has all ranks wait for one another
    through the store, over the wires that the units are on. Neighbours talk in the group of all, and in no other."""
    new_group = deepspeed.comm.new_group
    deepspeed.comm.new_group = lambda ranks: torch.distributed.group.WORLD
    try:
        yield
    finally:
        deepspeed.comm.new_group = new_group


def build_pipeline(
    config: PretrainedConfig,
    dtype: torch.dtype,
    bounds: Sequence[int],
    wait: WaitForUnit,
    ask: AskForRows | None = None,
) -> tuple[PipelineModule, StageModel]:
    """The pipeline whose stage i has layers [bounds[i], bounds[i + 1]); only this rank's part is built.

    The process must be in its group. With `ask` the first stage begins with rows of the embedding, see StageModel.
    Returns the module to call and the part of it that takes units.
    """
    specs = [LayerSpec(StageModel, config, dtype, first, end, wait, ask) for first, end in pairwise(bounds)]
    with contextlib.redirect_stdout(io.StringIO()), _one_group():  # DeepSpeed prints its layout
        pipeline = _MetaPipelineModule(specs, num_stages=len(specs))
    stage = pipeline.forward_funcs[0]
    for parameter in pipeline.parameters():
        parameter.requires_grad_(False)
    return pipeline, stage
