"""What a waiting stage process goes through once, as far as a CPU can show it."""

import itertools
from collections.abc import Iterator

import deepspeed
import pytest
import torch
from torch.distributed import HashStore

from cluster.stage import warm_up
from cluster.stage.joining.membership import join, leave
from cluster.stage.warm_up import load_kernels, prepare, run_steps

_CPU = torch.device("cpu")


@pytest.fixture
def _in_a_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", {})  # one would be compiled, as in no stage process
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    join(HashStore(), 0, 1, _CPU, 60.0)
    yield
    leave()


@pytest.mark.parametrize(("kind", "kept"), [("cuda", False), ("cpu", True)])
def test_no_attention_that_plans_for_each_length_on_a_gpu(kind: str, kept: bool) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        prepare(torch.device(kind))
        assert torch.backends.cuda.cudnn_sdp_enabled() == kept
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.usefixtures("_in_a_group")
@pytest.mark.parametrize("dtype", warm_up._GPU_DTYPES)
def test_every_kind_of_step_runs_in_every_dtype(dtype: torch.dtype) -> None:
    run_steps(_CPU, dtype, (*warm_up._STEPS, *warm_up._MORE_STEPS))


def test_the_steps_are_of_every_kind() -> None:
    """A prompt, a piece of one, a token, and several of each in one step."""
    kinds = [
        tuple("token" if s.tokens == 1 else "piece" if s.position else "prompt" for s in step)
        for step in (*warm_up._STEPS, *warm_up._MORE_STEPS)
    ]
    assert {kind[0] for kind in kinds if len(kind) == 1} == {"prompt", "token"}
    assert {("prompt", "prompt"), ("token", "piece"), ("token", "token", "token")} <= set(kinds)


def test_products_end_when_their_time_is_over_and_choosing_is_warmed_in_any_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[torch.dtype] = []
    choose = warm_up._choose
    monkeypatch.setattr(warm_up, "_choose", lambda logits: (chosen.append(logits.dtype), choose(logits)))
    clock = itertools.count()
    assert load_kernels(_CPU, 5, hidden=(8, 16), vocabulary=64, clock=lambda: next(clock)) == 5
    assert load_kernels(_CPU, 1000, hidden=(8, 16), vocabulary=64, clock=lambda: 0) == 3 * 2 * len(warm_up._SHAPES)
    assert set(chosen) == set(warm_up._GPU_DTYPES)


def test_no_matrix_takes_much_memory() -> None:
    largest = max(
        out * into * width * width * dtype.itemsize
        for dtype, width, (out, into) in itertools.product(warm_up._GPU_DTYPES, warm_up._HIDDEN, warm_up._SHAPES)
    )
    assert largest > warm_up._MOST_WEIGHT_BYTES, "there is something to leave out"
    made: list[int] = []
    zeros = torch.zeros

    def small(*shape: int, **options: object) -> torch.Tensor:
        made.append(shape[0] * shape[1] * options["dtype"].itemsize)  # type: ignore[attr-defined]
        return zeros(8, 8, **options)  # type: ignore[call-overload,no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", small)
        load_kernels(_CPU, 1.0, clock=lambda: 0.0)
    assert 0 < max(made) <= warm_up._MOST_WEIGHT_BYTES


def test_attention_to_prompts_is_loaded_for_the_heads_of_common_models() -> None:
    """From a prompt's beginning and from its middle: each query stands before the last key as it does in a prompt."""
    attended: list[tuple[int, torch.dtype, list[int], list[int]]] = []

    def attend(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, starts_q: torch.Tensor, starts_k: torch.Tensor,
        longest_q: int, longest_k: int, scale: float, window: int | None,
    ) -> torch.Tensor:  # fmt: skip
        assert (len(queries), len(keys)) == (longest_q, longest_k)
        attended.append((queries.shape[-1], queries.dtype, starts_q.tolist(), starts_k.tolist()))
        return queries

    load_kernels(_CPU, 0.0, (8,), vocabulary=16, clock=lambda: 1.0, attend=attend)
    assert {(dim, dtype) for dim, dtype, _, _ in attended} == set(
        itertools.product((128, 64), (torch.bfloat16, torch.float16))
    )
    assert {(tuple(q), tuple(k)) for _, _, q, k in attended} == {((0, 8), (0, 8)), ((0, 4), (0, 8))}
