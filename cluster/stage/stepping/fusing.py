"""A model's layers with fewer launches: what transformers' modules compute in many small kernels, they compute in one.

For a GPU, where a decode step of one request is hundreds of launches, each of which costs more than its arithmetic. No class
and no module of transformers is changed: forwards of this model's modules are exchanged, and can be put back. What a module
computes is found out by comparing it with a formula, so a family that computes otherwise keeps its own. Results are those of
the modules up to rounding; rounding to the model's dtype stands where the modules have it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from cluster.stage import kernels
from cluster.stage.stepping.products import Multiply, Product, join

if TYPE_CHECKING:
    from cluster.stage.kernels.forms import Form

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of linear modules that transformers' modules give the same input."""


class Fusing:
    """The fused forms of a model's modules.

    `join` makes one product of several, and holds at once: it needs no kernel. Everything else does: `prepare` builds them,
    `on` has them used, `off` no longer. `matvec_rows`: products of at most so many rows are left to a kernel of our own, 0
    for none.

    `join` may be called on another thread than the forward pass, before the layer's unit is announced; the others between
    two passes.
    """

    def __init__(self, lm: nn.Module, matvec_rows: int = 0) -> None:
        self._lm, self._matvec_rows = lm, matvec_rows
        self._products: dict[nn.Module, Product] = {}
        self._forms: list[Form] = []
        self._multiply: Multiply = functional.linear

    def join(self, part: nn.Module) -> int:
        """Read weights of `part` that lie one after the other as one; how many products stand now for several.

        To be called whenever the part's tensors have been assigned.
        """
        several = 0
        for linears in _groups(part, alone=self._matvec_rows > 0):
            for linear in linears:
                if linear in self._products:
                    self._products.pop(linear).undo()
            product = join(linears, self._multiplied)
            if product is not None:
                self._products.update(dict.fromkeys(linears, product))
                several += len(linears) > 1
        return several

    def prepare(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Find what can be fused and build its kernels, which takes up to seconds; nothing is used before `on`.

        False, with a line in the log, where kernels cannot be built; `on` changes nothing then.
        """
        self.off()
        self._forms = []
        found: list[Form] = []
        built = kernels.build(lambda: found.extend(self._build(device, dtype)))
        self._forms = found
        return built

    def on(self) -> None:
        """Use the kernels from the next forward pass on."""
        for form in self._forms:
            form.module.forward = form.forward
        if self._forms and self._matvec_rows:
            self._multiply = self._few_rows

    def off(self) -> None:
        """Let the modules compute by themselves, in joined products."""
        for form in self._forms:
            form.module.__dict__.pop("forward", None)
        self._multiply = functional.linear

    def _build(self, device: torch.device, dtype: torch.dtype) -> "list[Form]":
        from cluster.stage.kernels import matvec
        from cluster.stage.kernels.forms import forms_of

        forms = list(forms_of(self._lm))
        for build in {form.key: form.build for form in forms}.values():
            build(device, dtype)
        if self._matvec_rows:
            shapes = {(product.weight.shape, product.bias is None): product for product in self._products.values()}
            for product in shapes.values():
                matvec.prepare(self._matvec_rows, product.weight, product.bias)
        return forms

    def _multiplied(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._multiply(x, weight, bias)

    def _few_rows(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        from cluster.stage.kernels.matvec import matvec

        few = x.numel() <= self._matvec_rows * x.shape[-1]
        product = matvec(x, weight, bias) if few else None
        return functional.linear(x, weight, bias) if product is None else product


def _groups(part: nn.Module, alone: bool) -> Iterator[list[Any]]:
    """Linear modules of `part` that may have one product; with `alone`, also each that has only its own."""
    taken: set[nn.Module] = set()
    for module in part.modules():
        for names in _TOGETHER:
            linears = [getattr(module, name, None) for name in names]
            if all(type(linear) is nn.Linear for linear in linears):
                taken.update(linears)
                yield linears
    for module in part.modules() if alone else ():
        if type(module) is nn.Linear and module not in taken:
            yield [module]
