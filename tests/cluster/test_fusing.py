"""A model's layers fused and as transformers has them: the same numbers from fewer launches."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from triton.errors import TritonError

from cluster.stage import kernels
from cluster.stage.building.model import StageModel
from cluster.stage.kernels.ahead import build_common
from cluster.stage.stepping.fusing import Fusing
from tests.cluster.fused_stages import DECODE, counted, make_stage, run
from tests.cluster.triton_kernels import DEVICE, activation, norm, rotary
from tests.tiny import SUPPORTED_FAMILIES

pytestmark = pytest.mark.gpu


@dataclass(frozen=True)
class _Fused:
    """What is fused in a model: joined products in each layer, norms in each and after the last, rotations and MLPs."""

    products: int
    norms: int
    rotates: bool
    gates: bool
    last_norm: bool = True


_LLAMA = _Fused(2, 2, rotates=True, gates=True)
_EXPECTED = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "granite", "smollm3", "gemma"), _LLAMA),
    "qwen3": _Fused(2, 4, rotates=True, gates=True),
    "gemma2": _Fused(2, 4, rotates=True, gates=True),
    "gemma3_text": _Fused(2, 6, rotates=True, gates=True),
    "phi3": _Fused(0, 2, rotates=True, gates=True),
    "olmo2": _Fused(2, 4, rotates=True, gates=True),
    "mixtral": _Fused(1, 2, rotates=True, gates=False),
    "qwen3_moe": _Fused(1, 4, rotates=True, gates=False),
    "opt": _Fused(1, 0, rotates=False, gates=False, last_norm=False),
    "gpt2": _Fused(0, 0, rotates=False, gates=False, last_norm=False),
    "gpt_neox": _Fused(0, 0, rotates=True, gates=False, last_norm=False),
    "falcon": _Fused(0, 0, rotates=True, gates=False, last_norm=False),
}


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_a_fused_model_gives_the_familys_logits(family: str, tmp_path: Path) -> None:
    model, expected = make_stage(family, tmp_path), _EXPECTED[family]
    own = run(model)
    fusing = Fusing(model.lm)
    joined = [fusing.join(part.module) for part in model._skeleton.parts]
    assert sum(joined) == model.layers * expected.products
    for given, wanted in zip(run(model), own, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
    assert fusing.prepare(DEVICE, torch.float32)
    fusing.on()
    with counted() as launches:
        fused = run(model)
    for given, wanted in zip(fused, own, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
        assert torch.equal(given.argmax(-1), wanted.argmax(-1))
    attentions = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    rotating = sum(getattr(module, "use_rope", True) for module in attentions)  # smollm3 has layers without positions
    assert launches.ops["rms_norm"] == len(own) * (model.layers * expected.norms + expected.last_norm)
    assert launches.ops["rotate"] == len(own) * rotating * expected.rotates
    assert launches.ops["gated"] == len(own) * model.layers * expected.gates
    fusing.off()
    with counted() as launches:
        run(model)
    assert not launches.ops["rms_norm"] + launches.ops["rotate"] + launches.ops["gated"]


def _fuse(model: StageModel, matvec_rows: int = 0) -> Fusing:
    fusing = Fusing(model.lm, matvec_rows)
    for part in model._skeleton.parts:
        fusing.join(part.module)
    assert fusing.prepare(DEVICE, torch.float32)
    fusing.on()
    return fusing


@pytest.mark.skipif(DEVICE.type != "cpu", reason="operations stand for launches where kernels are interpreted")
@pytest.mark.parametrize(("family", "most"), [("llama", 13), ("qwen3", 15), ("phi3", 13)])
def test_launches_of_a_layer_in_a_decode_step(family: str, most: int, tmp_path: Path) -> None:
    """Norms 2, products 4, rotation, keys and values written 2, attention, gating, sums 2; qwen3's heads have 2 norms.

    In float32 they are 36, 48 and 35 when nothing is fused.
    """
    counts = []
    for layers in (2, 4):
        model = make_stage(family, tmp_path / str(layers), num_hidden_layers=layers)
        _fuse(model)
        with counted() as launches:
            run(model, DECODE)
        counts.append(launches.ops.total())
    assert (counts[1] - counts[0]) / 2 <= most


def test_few_rows_are_multiplied_by_our_kernel_and_many_by_torch(tmp_path: Path) -> None:
    """The second step has two rows, the third one; the first has eight, but for its two rows of logits."""
    model = make_stage("qwen2", tmp_path, num_hidden_layers=2)
    own = run(model)
    fusing = _fuse(model, matvec_rows=2)
    with counted() as launches:
        fused = run(model)
    for given, wanted in zip(fused, own, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
    products = 4 * model.layers
    assert launches.ops["matvec"] == 2 * products + 3
    fusing.off()
    with counted() as launches:
        run(model)
    assert not launches.ops["matvec"]


def test_kernels_are_not_built_where_triton_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are joined all the same."""
    monkeypatch.setattr(kernels, "available", lambda: False)
    model = make_stage("llama", tmp_path)
    own = run(model, DECODE)
    fusing = Fusing(model.lm)
    assert [fusing.join(part.module) for part in model._skeleton.parts] == [0, 2, 2, 2, 2, 0, 0]
    assert not fusing.prepare(DEVICE, torch.float32)
    fusing.on()
    with counted() as launches:
        torch.testing.assert_close(run(model, DECODE)[0], own[0], rtol=1e-4, atol=1e-4)
    assert not launches.ops["rms_norm"]
    assert launches.ops["linear"] == 4 * model.layers + 1


@pytest.mark.parametrize(
    "error", [RuntimeError("no C compiler"), OSError("no space"), ImportError("libcuda"), TritonError("no")], ids=repr
)
def test_kernels_that_cannot_be_built_are_not_used(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor are those of an earlier time."""
    model = make_stage("llama", tmp_path, num_hidden_layers=1)
    fusing = _fuse(model)

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(activation, "prepare", fail)
    assert not build_common(DEVICE, torch.float32)
    assert not fusing.prepare(DEVICE, torch.float32)
    fusing.on()
    with counted() as launches:
        run(model, DECODE)
    assert not launches.ops["rms_norm"]
    assert str(error) in caplog.text


def test_forward_of_the_family_and_of_other_models_stays(tmp_path: Path) -> None:
    fused, other = make_stage("llama", tmp_path / "a"), make_stage("llama", tmp_path / "b")
    _fuse(fused)
    with counted() as launches:
        run(other)
    assert not launches.ops["rms_norm"] + launches.ops["rotate"] + launches.ops["gated"]


def test_common_kernels_are_those_that_a_llama_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 128, hidden states of 4,096, in the model's dtype."""
    built: list[tuple[object, ...]] = []
    for module, name in ((norm, "norm"), (rotary, "rotary"), (activation, "activation")):
        monkeypatch.setattr(module, "prepare", lambda *args, name=name: built.append((name, *args)))
    assert build_common(DEVICE, torch.bfloat16)
    whole = rotary.Form(partial=False, restores=False)
    assert {
        ("norm", norm.Form.ROUNDED, 4096, DEVICE, torch.bfloat16),
        ("rotary", whole, 128, 128, DEVICE, torch.bfloat16, torch.bfloat16),
        ("activation", activation.Act.SILU, 1024, DEVICE, torch.bfloat16),
    } <= set(built)


def test_common_kernels_can_be_built() -> None:
    assert build_common(DEVICE, torch.float32)


def test_a_triton_that_cannot_be_imported_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    assert not kernels.build(lambda: None)
    assert "triton.errors" in caplog.text


def test_what_does_not_fit_a_kernel_is_computed_by_the_modules_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_stage("gemma3_text", tmp_path)
    own = run(model)
    _fuse(model)
    for module, name in ((norm, "rms_norm"), (rotary, "rotate"), (activation, "gated")):
        monkeypatch.setattr(module, name, lambda *_args: None)
    for given, wanted in zip(run(model), own, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)


def test_an_unknown_activation_is_the_familys(tmp_path: Path) -> None:
    model = make_stage("llama", tmp_path, hidden_act="gelu")
    own = run(model)
    _fuse(model)
    with counted() as launches:
        fused = run(model)
    for given, wanted in zip(fused, own, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
    assert not launches.ops["gated"]


@pytest.mark.parametrize("again", [False, True])
def test_a_unit_that_is_assigned_once_more_counts(again: bool, tmp_path: Path) -> None:
    """Its products are those of the new weights, joined again or not."""
    model, other = make_stage("qwen2", tmp_path / "a"), make_stage("qwen2", tmp_path / "b", seed=4)
    fusing = _fuse(model)
    for mine, its in zip(model._skeleton.parts, other._skeleton.parts, strict=True):
        mine.module.load_state_dict(its.module.state_dict(), assign=True)
        if again:
            fusing.join(mine.module)
    for given, wanted in zip(run(model), run(other), strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
    with counted() as launches:
        run(model, DECODE)
    assert launches.ops["linear"] == (4 if again else 7) * model.layers + 1


def test_the_output_matrix_that_no_layer_has_is_joined_alone(tmp_path: Path) -> None:
    """Only for products of our own; otherwise there is nothing to be had."""
    model = make_stage("llama", tmp_path)
    for matvec_rows in (0, 1):
        fusing = Fusing(model.lm, matvec_rows)
        fusing.join(model.lm.lm_head)
        assert ("forward" in vars(model.lm.lm_head)) == (matvec_rows > 0)
