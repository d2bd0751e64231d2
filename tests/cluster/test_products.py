"""Several linear modules' product as one: who computes, who takes a part, and when each computes for itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.stage.stepping.products import join

_INPUTS, _OUTPUTS = 8, (6, 2, 4)


class _Counted:
    """Multiplies as torch does, and remembers the number of outputs each time."""

    def __init__(self) -> None:
        self.outputs: list[int] = []

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        self.outputs.append(len(weight))
        return functional.linear(x, weight, bias)


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _linears(
    order: Sequence[int] = (0, 1, 2), biased: bool = False, gap: int = 0, bias_gap: int = 0
) -> list[nn.Linear]:
    """Modules of 6, 2 and 4 outputs whose tensors lie in one memory in this order, with gaps in between."""
    linears = [nn.Linear(_INPUTS, outputs, bias=biased) for outputs in _OUTPUTS]
    memory = torch.randn(400, generator=torch.Generator().manual_seed(1))
    at = 3
    for i in order:
        linears[i].weight = _parameter(memory[at : at + _INPUTS * _OUTPUTS[i]].view(_OUTPUTS[i], _INPUTS))
        at += _INPUTS * _OUTPUTS[i] + gap
    for i in order if biased else ():
        linears[i].bias = _parameter(memory[at : at + _OUTPUTS[i]])
        at += _OUTPUTS[i] + bias_gap
    return linears


def _own(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, linear.weight, linear.bias)


_X = torch.randn(1, 3, _INPUTS, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("called", [(0, 1, 2), (1, 2, 0)])
def test_the_first_that_is_called_computes_for_all(order: Any, called: Any, biased: bool) -> None:
    multiply, linears = _Counted(), _linears(order, biased)
    assert join(linears, multiply) is not None
    for x in (_X, _X + 1):
        for i in called:
            torch.testing.assert_close(linears[i](x), _own(linears[i], x))
    assert multiply.outputs == [12, 12]


def test_another_input_is_computed_again() -> None:
    """Also if it is equal: an input may have been written to since, but then it was somebody's that is done with it."""
    multiply, linears = _Counted(), _linears()
    join(linears, multiply)
    linears[0](_X)
    torch.testing.assert_close(linears[1](_X + 1), _own(linears[1], _X + 1))
    torch.testing.assert_close(linears[2](_X), _own(linears[2], _X))
    assert multiply.outputs == [12, 12, 12]


def test_a_part_is_given_once() -> None:
    """A pass that broke off between the modules leaves parts behind; the next may come in the same memory."""
    multiply, linears, x = _Counted(), _linears(), _X.clone()
    join(linears, multiply)
    linears[0](x)
    x += 1
    for linear in linears:
        torch.testing.assert_close(linear(x), _own(linear, x))
    assert multiply.outputs == [12, 12]


def test_what_was_computed_is_not_kept() -> None:
    linears = _linears()
    product = join(linears, _Counted())
    assert product is not None
    for linear in linears:
        linear(_X)
    assert product._input is None
    assert product._parts == [None] * 3


@pytest.mark.parametrize("biased", [False, True])
def test_a_module_with_another_weight_computes_for_itself(biased: bool) -> None:
    multiply, linears = _Counted(), _linears(biased=biased)
    join(linears, multiply)
    linears[1].weight = _parameter(torch.ones_like(linears[1].weight))
    for linear in linears:
        torch.testing.assert_close(linear(_X), _own(linear, _X))
    assert multiply.outputs == [6, 2, 4]


def test_undone_each_computes_for_itself() -> None:
    multiply, linears = _Counted(), _linears()
    product = join(linears, multiply)
    assert product is not None
    product.undo()
    torch.testing.assert_close(linears[0](_X), _own(linears[0], _X))
    assert not multiply.outputs


def test_one_alone_may_be_a_product_too() -> None:
    multiply, (linear, *_) = _Counted(), _linears()
    assert join([linear], multiply) is not None
    for x in (_X, _X):
        torch.testing.assert_close(linear(x), _own(linear, x))
    assert multiply.outputs == [6, 6]


def _exchange(linears: list[nn.Linear], name: str, tensor: torch.Tensor | None) -> list[nn.Linear]:
    setattr(linears[1], name, None if tensor is None else _parameter(tensor))
    return linears


def _of_several_storages() -> list[nn.Linear]:
    """Weights that are neighbours, but no storage has them all."""
    memory, at = np.ones(_INPUTS * sum(_OUTPUTS), dtype=np.float32), 0
    linears = [nn.Linear(_INPUTS, outputs, bias=False) for outputs in _OUTPUTS]
    for linear in linears:
        end = at + linear.weight.numel()
        linear.weight = _parameter(torch.from_numpy(memory[at:end]).view_as(linear.weight))
        at = end
    return linears


@pytest.mark.parametrize(
    "linears",
    [
        _linears(gap=1),
        _linears(biased=True, bias_gap=1),
        _exchange(_linears(), "weight", torch.randn(2, _INPUTS)),
        _exchange(_linears(), "weight", torch.randn(2, _INPUTS, device="meta")),
        _exchange(_linears(), "weight", torch.randn(2, _INPUTS).bfloat16()),
        _exchange(_linears(), "weight", torch.randn(_INPUTS, 2).T),
        _exchange(_linears(biased=True), "bias", None),
        _exchange(_linears(), "bias", torch.randn(2)),
        _of_several_storages(),
        [nn.Linear(_INPUTS, 2, bias=False, device="meta") for _ in range(3)],
    ],
    ids=[
        "gap",
        "biases' gap",
        "elsewhere",
        "one on meta",
        "dtype",
        "columns",
        "a bias missing",
        "one bias",
        "storages",
        "meta",
    ],
)
def test_what_does_not_lie_together_stays_apart(linears: list[nn.Linear]) -> None:
    assert join(linears, _Counted()) is None
    assert all("forward" not in vars(linear) for linear in linears)
