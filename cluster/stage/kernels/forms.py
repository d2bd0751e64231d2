"""Which modules of a model our kernels can stand in for, and the forwards that have them do so.

No family is named: norms, activations and rotations are known by the numbers that they give (see the kernels' files), an MLP
by its code.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from cluster.stage.kernels import activation, norm, rotary

_NORM = "RMSNorm"
_ROTATE = "apply_rotary_pos_emb"


@dataclass(frozen=True)
class Form:
    """`forward` computes what `module` does with kernels that `build(device, dtype)` builds; one build a `key` is enough."""

    module: nn.Module
    forward: Callable[..., Any]
    key: Hashable
    build: Callable[[torch.device, torch.dtype], None]


def forms_of(lm: nn.Module) -> Iterator[Form]:
    """All that can be fused in a built model; its weights may still be on meta."""
    rotated = _rotated(lm)
    for module in lm.modules():
        form = _norm(module) or _mlp(module) or _attention(module, rotated)
        if form is not None:
            yield form


def _norm(module: nn.Module) -> Form | None:
    kind: Any = type(module)
    form = norm.form_of(kind) if kind.__name__.endswith(_NORM) else None
    if form is None:
        return None
    own, eps, width = MethodType(kind.forward, module), norm.eps_of(module), module.weight.shape[0]

    def forward(x: torch.Tensor) -> torch.Tensor:
        normed = norm.rms_norm(form, x, module.weight, eps)
        return own(x) if normed is None else normed

    return Form(module, forward, (form, width), partial(norm.prepare, form, width))


def _gate_and_up(self: Any, x: Any) -> Any:
    down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return down_proj  # noqa: RET504 - as transformers has it


def _gate_up(self: Any, hidden_states: Any) -> Any:
    up_states = self.gate_up_proj(hidden_states)

    gate, up_states = up_states.chunk(2, dim=-1)
    up_states = up_states * self.activation_fn(gate)

    return self.down_proj(up_states)


def _same(code: CodeType, other: CodeType) -> bool:
    return (code.co_code, code.co_names, code.co_consts) == (other.co_code, other.co_names, other.co_consts)


def _mlp(module: nn.Module) -> Form | None:
    """transformers' two gated MLPs, by their code."""
    own: Any = type(module).forward
    code = getattr(own, "__code__", None)
    if code is None:
        return None
    this: Any = module
    if _same(code, _gate_and_up.__code__):
        act, width = activation.act_of(this.act_fn), this.down_proj.in_features
    elif _same(code, _gate_up.__code__):
        act, width = activation.act_of(this.activation_fn), this.down_proj.in_features
    else:
        return None
    if act is None:
        return None
    apart = _same(code, _gate_and_up.__code__)
    activate = this.act_fn if apart else this.activation_fn

    def forward(x: torch.Tensor) -> torch.Tensor:
        gate, up = (this.gate_proj(x), this.up_proj(x)) if apart else this.gate_up_proj(x).chunk(2, dim=-1)
        product = activation.gated(act, gate, up)
        return this.down_proj(activate(gate) * up if product is None else product)

    return Form(module, forward, (act, width), partial(activation.prepare, act, width))


def _attention(module: nn.Module, rotated: frozenset[int]) -> Form | None:
    """A module whose forward calls its family's function by name: there it finds ours under that name, and only there."""
    own = type(module).forward
    if not isinstance(own, FunctionType) or _ROTATE not in own.__code__.co_names or _ROTATE not in own.__globals__:
        return None
    apply = own.__globals__[_ROTATE]
    form = rotary.form_of(apply)
    dim = getattr(module, "head_dim", None) or getattr(module, "head_size", None)
    if form is None or dim is None or not rotated:
        return None

    def rotate(q: Any, k: Any, cos: Any, sin: Any, *others: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        turned = None if others or named else rotary.rotate(form, q, k, cos, sin)
        return apply(q, k, cos, sin, *others, **named) if turned is None else turned

    forward = FunctionType(
        own.__code__, {**own.__globals__, _ROTATE: rotate}, own.__name__, own.__defaults__, own.__closure__
    )
    forward.__kwdefaults__ = own.__kwdefaults__
    build = partial(_build_rotary, form, int(dim), rotated)
    return Form(module, MethodType(forward, module), (form, int(dim), rotated), build)


def _build_rotary(
    form: rotary.Form, dim: int, rotated: frozenset[int], device: torch.device, dtype: torch.dtype
) -> None:
    factors = {dtype, torch.float32} if form.restores else {dtype}
    for size in rotated:
        for kind in factors:
            rotary.prepare(form, dim, size, device, dtype, kind)


def _rotated(lm: nn.Module) -> frozenset[int]:
    """How many dimensions of a head the model's rotary modules have factors for."""
    named = dict(lm.named_buffers())
    return frozenset(2 * buffer.shape[-1] for name, buffer in named.items() if name.endswith("inv_freq"))
