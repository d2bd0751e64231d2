"""Each kernel against the torch code that it stands for: the families' own modules, and for a product torch's."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from tests.cluster.triton_kernels import DEVICE, activation, matvec, norm, rotary

pytestmark = pytest.mark.gpu
_HALF = torch.float16 if DEVICE.type == "cpu" else torch.bfloat16  # the interpreter cannot compute in bfloat16
_DTYPES = [torch.float32, _HALF]
_NORMS = {
    "llama": norm.Form.ROUNDED, "mistral": norm.Form.ROUNDED, "mixtral": norm.Form.ROUNDED, "qwen2": norm.Form.ROUNDED,
    "qwen3": norm.Form.ROUNDED, "qwen3_moe": norm.Form.ROUNDED, "phi3": norm.Form.ROUNDED, "granite": norm.Form.ROUNDED,
    "smollm3": norm.Form.ROUNDED, "olmo2": norm.Form.WEIGHTED, "gemma": norm.Form.OFFSET, "gemma2": norm.Form.OFFSET,
    "gemma3": norm.Form.OFFSET,
}  # fmt: skip
_ROTARIES = {
    **dict.fromkeys(_NORMS, rotary.Form(partial=False, restores=False)),
    "phi3": rotary.Form(partial=True, restores=False),
    "olmo2": rotary.Form(partial=False, restores=True),
    "gpt_neox": rotary.Form(partial=True, restores=False),
    "falcon": rotary.Form(partial=False, restores=False),
}


def _modeling(family: str) -> Any:
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}")


def _norm_class(family: str) -> Any:
    module = _modeling(family)
    return next(
        kind for name, kind in vars(module).items() if name.endswith("RMSNorm") and kind.__module__ == module.__name__
    )


def _draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def _close(given: Any, wanted: torch.Tensor) -> None:
    """Equal up to the order of sums; in half precision nearly all numbers are the same, or it was rounded elsewhere: on a GPU
    a product and what is added to it may be rounded as one."""
    assert given is not None, "the kernel was not used"
    assert given.dtype == wanted.dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[wanted.dtype]
    torch.testing.assert_close(given, wanted, rtol=tolerance, atol=tolerance)
    if wanted.dtype != torch.float32 and DEVICE.type == "cpu":
        assert (given == wanted).float().mean() > 0.9


@pytest.mark.parametrize("family", _NORMS)
def test_a_norms_form_is_found_by_its_numbers(family: str) -> None:
    assert norm.form_of(_norm_class(family)) is _NORMS[family]


class _CentredRMSNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x.float() - x.float().mean(-1, keepdim=True)
        return self.weight * (centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class _BiasedRMSNorm(_CentredRMSNorm):
    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__(width, eps)
        self.bias = nn.Parameter(torch.zeros(width))


class _GatedRMSNorm(_CentredRMSNorm):
    def __init__(self, width: int, gate: bool, eps: float = 1e-6) -> None:
        super().__init__(width, eps)


@pytest.mark.parametrize("kind", [_CentredRMSNorm, _BiasedRMSNorm, _GatedRMSNorm])
def test_an_unknown_norm_has_no_form(kind: type[nn.Module]) -> None:
    assert norm.form_of(kind) is None


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("family", ["llama", "olmo2", "gemma3"])
@pytest.mark.parametrize("width", [64, 80])
@pytest.mark.parametrize("tokens", [1, 3])
def test_a_norm_is_the_familys(family: str, width: int, tokens: int, dtype: torch.dtype) -> None:
    own = _norm_class(family)(width, eps=0.1).to(DEVICE, dtype)
    with torch.no_grad():
        own.weight.copy_(_draw(width, seed=1))
    x = _draw(1, tokens, width, dtype=dtype)
    _close(norm.rms_norm(_NORMS[family], x, own.weight, norm.eps_of(own)), own(x))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("turned", [False, True])
def test_a_norm_of_heads_reads_and_writes_them_where_they_lie(tokens: int, turned: bool) -> None:
    """Heads of a joined product, (1, tokens, heads, dim), are not dense; gemma3's come transposed as well."""
    heads = _draw(1, tokens, 5 * 32)[..., : 3 * 32].view(1, tokens, 3, 32)
    heads = heads.transpose(1, 2) if turned else heads
    weight = _draw(32, seed=1)
    given = norm.rms_norm(norm.Form.OFFSET, heads, weight, 0.1)
    _close(given, norm.formula(norm.Form.OFFSET, heads, weight, 0.1))


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (_draw(1, 2, 32), _draw(32).double()),
        (_draw(1, 32, 2).transpose(1, 2), _draw(32)),
        (_draw(2, 3, 4, 64).permute(2, 1, 0, 3)[..., :32], _draw(32)),
        (_draw(0, 32), _draw(32)),
        (_draw(2, 32), _draw(16)),
        (_draw(2, 32), _draw(64)[::2]),
        (_draw(1, (1 << 14) + 1), _draw((1 << 14) + 1)),
    ],
    ids=["other dtype", "columns", "three strides", "empty", "other width", "weight with gaps", "too wide"],
)
def test_a_norm_that_does_not_fit_is_left_to_the_module(x: torch.Tensor, weight: torch.Tensor) -> None:
    assert norm.rms_norm(norm.Form.ROUNDED, x, weight, 0.1) is None


@pytest.mark.parametrize("family", _ROTARIES)
def test_a_rotarys_form_is_found_by_its_numbers(family: str) -> None:
    assert rotary.form_of(_modeling(family).apply_rotary_pos_emb) == _ROTARIES[family]


def test_pairs_that_are_neighbours_have_no_form() -> None:
    def interleaved(q: Any, k: Any, cos: Any, sin: Any) -> Any:
        def turn(x: torch.Tensor) -> torch.Tensor:
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
            return x * cos[:, None] + turned * sin[:, None]

        return turn(q), turn(k)

    assert rotary.form_of(interleaved) is None


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize(
    ("family", "dim", "rotated"), [("llama", 32, 32), ("olmo2", 24, 24), ("phi3", 32, 24), ("gpt_neox", 16, 4)]
)
@pytest.mark.parametrize("tokens", [1, 3])
def test_a_rotation_is_the_familys(family: str, dim: int, rotated: int, tokens: int, dtype: torch.dtype) -> None:
    """Queries and keys are parts of one joined product; six heads are more than one program's."""
    both = _draw(1, tokens, 8 * dim, dtype=dtype).view(1, tokens, 8, dim).transpose(1, 2)
    q, k = both[:, :6], both[:, 6:]
    factors = torch.float32 if family == "olmo2" else dtype
    cos, sin = _draw(1, tokens, rotated, seed=1, dtype=factors), _draw(1, tokens, rotated, seed=2, dtype=factors)
    given = rotary.rotate(_ROTARIES[family], q, k, cos, sin)
    assert given is not None
    wanted = _modeling(family).apply_rotary_pos_emb(q, k, cos, sin)
    for a, b in zip(given, wanted, strict=True):
        _close(a, b)
        assert a.transpose(1, 2).is_contiguous(), "the heads of a token lie together"


_FITTING = {"q": _draw(1, 4, 2, 8), "k": _draw(1, 2, 2, 8), "cos": _draw(1, 2, 8), "sin": _draw(1, 2, 8, seed=1)}
_UNFITTING: dict[str, dict[str, torch.Tensor]] = {
    "queries of three dimensions": {"q": _draw(4, 2, 8)},
    "keys of three dimensions": {"k": _draw(2, 2, 8)},
    "two sequences": {"q": _draw(2, 4, 2, 8), "k": _draw(2, 2, 2, 8)},
    "no token": {"q": _draw(1, 4, 0, 8), "k": _draw(1, 2, 0, 8), "cos": _draw(1, 0, 8), "sin": _draw(1, 0, 8)},
    "fewer keys": {"k": _draw(1, 2, 1, 8)},
    "smaller keys": {"k": _draw(1, 2, 2, 6)},
    "queries with gaps": {"q": _draw(1, 4, 2, 16)[..., ::2]},
    "keys with gaps": {"k": _draw(1, 2, 2, 16)[..., ::2]},
    "keys of another dtype": {"k": _draw(1, 2, 2, 8).double()},
    "factors of another dtype": {"cos": _draw(1, 2, 8).double(), "sin": _draw(1, 2, 8).double()},
    "sines of another dtype": {"sin": _draw(1, 2, 8).double()},
    "factors in float32": {"q": _draw(1, 4, 2, 8, dtype=_HALF), "k": _draw(1, 2, 2, 8, dtype=_HALF)},
    "fewer factors": {"cos": _draw(1, 2, 4), "sin": _draw(1, 2, 4)},
    "fewer sines": {"sin": _draw(1, 2, 4)},
    "one position for all": {"cos": _draw(1, 1, 8), "sin": _draw(1, 1, 8)},
    "cosines with gaps": {"cos": _draw(1, 2, 16)[..., ::2]},
    "sines with gaps": {"sin": _draw(1, 2, 16)[..., ::2]},
    "odd": {"q": _draw(1, 4, 2, 7), "k": _draw(1, 2, 2, 7), "cos": _draw(1, 2, 7), "sin": _draw(1, 2, 7)},
}


def test_a_rotation_that_fits() -> None:
    assert rotary.rotate(_ROTARIES["llama"], **_FITTING) is not None


@pytest.mark.parametrize("changes", _UNFITTING.values(), ids=_UNFITTING)
def test_a_rotation_that_does_not_fit_is_left_to_the_family(changes: dict[str, torch.Tensor]) -> None:
    assert rotary.rotate(_ROTARIES["llama"], **{**_FITTING, **changes}) is None


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("silu", activation.Act.SILU), ("swish", activation.Act.SILU), ("gelu_pytorch_tanh", activation.Act.GELU_TANH),
        ("gelu", None), ("relu", None), ("prelu", None),
    ],
)  # fmt: skip
def test_an_activation_is_known_by_its_numbers(name: str, act: Any) -> None:
    assert activation.act_of(ACT2FN[name]) is act


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("act", list(activation.Act))
@pytest.mark.parametrize(("tokens", "width"), [(1, 96), (3, 1100)])
def test_gated_is_the_activation_times_up(act: Any, tokens: int, width: int, dtype: torch.dtype) -> None:
    gate, up = (4 * _draw(1, tokens, 2 * width, dtype=dtype)).chunk(2, dim=-1)
    _close(activation.gated(act, gate, up), activation.formula(act, gate, up))


@pytest.mark.parametrize(
    ("gate", "up"),
    [
        (_draw(2, 8), _draw(2, 8).double()),
        (_draw(2, 8), _draw(1, 8)),
        (_draw(0, 8), _draw(0, 8)),
        (_draw(2, 16)[:, ::2], _draw(2, 8)),
        (_draw(2, 8), _draw(2, 16)[:, ::2]),
        (_draw(2, 4, 8)[:, :3], _draw(2, 3, 8)),
        (_draw(2, 3, 8), _draw(2, 4, 8)[:, :3]),
    ],
    ids=["dtype", "shape", "empty", "gate's gaps", "up's gaps", "gate's two strides", "up's two strides"],
)
def test_gated_that_does_not_fit_is_left_to_torch(gate: torch.Tensor, up: torch.Tensor) -> None:
    assert activation.gated(activation.Act.SILU, gate, up) is None


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 64), (19, 70)])
def test_a_product_is_torchs(outputs: int, inputs: int, rows: int, biased: bool, dtype: torch.dtype) -> None:
    x, weight = _draw(1, rows, inputs + 3, dtype=dtype)[..., :inputs], _draw(outputs, inputs, seed=1, dtype=dtype)
    bias = _draw(outputs, seed=2, dtype=dtype) if biased else None
    given = matvec.matvec(x, weight, bias, matvec.Tile(4, 32, 4))
    _close(given, matvec.formula(x, weight, bias))


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (_draw(5, 8), _draw(3, 8), None),
        (_draw(0, 8), _draw(3, 8), None),
        (_draw(1, 4), _draw(3, 8), None),
        (_draw(1, 8).double(), _draw(3, 8), None),
        (_draw(1, 8), _draw(8, 3).T, None),
        (_draw(1, 8), _draw(3, 8), _draw(3).double()),
        (_draw(1, 16)[:, ::2], _draw(3, 8), None),
        (_draw(2, 3, 8)[:, :2], _draw(3, 8), None),
    ],
    ids=["many rows", "no row", "width", "dtype", "weight's columns", "bias's dtype", "gaps", "two strides"],
)
def test_a_product_that_does_not_fit_is_left_to_torch(x: torch.Tensor, weight: torch.Tensor, bias: Any) -> None:
    assert matvec.matvec(x, weight, bias) is None


def test_kernels_compile_for_a_gpu_and_read_wide(tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does. A product is as fast as its loads are wide."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    script = [sys.executable, "-m", "tests.cluster.compile_kernels"]
    said = subprocess.run(script, env=environment, check=True, capture_output=True, timeout=200).stdout
    loads = json.loads(said)
    assert len(loads) == len(norm.Form) + len(activation.Act) + 5
    assert loads["matvec"]["bytes16"] >= 4, "weights"
    assert all(
        loads[name]["bytes16"] == 2 for name in ("norm ROUNDED", "norm WEIGHTED", "norm OFFSET", "SILU", "GELU_TANH")
    )
    assert loads["rotary"]["bytes8"] == 4
