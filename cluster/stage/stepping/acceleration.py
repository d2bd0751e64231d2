"""What makes a stage's steps fast on a GPU, got ready behind its first one: no first token waits for it.

Kernels are compiled on a thread for the layers that the first step went through; from then on steps of one token each are
static, and captured.
"""

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Protocol

import torch

from cluster.stage import kernels
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.paged_attention import Kind, flash_attention
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.building.model import StageModel
from cluster.stage.stepping.fusing import Fusing
from cluster.stage.stepping.static_steps import CudaGraphs, StaticSteps
from cluster.stage.steps import Segment

_log = logging.getLogger(__name__)
_MATVEC_ROWS = 1
"""From two rows on cuBLAS is as quick as our kernel."""
Prepare = Callable[[Sequence[Kind]], ModuleType | None]


class Acceleration(Protocol):
    """Takes the steps that it can compute in a better way."""

    def run(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor | None:
        """What the stage's layers make of the step; None if it is to be computed as ever."""
        ...

    def takes(self, segments: Sequence[Segment]) -> bool:
        """Whether it would compute such a step now."""
        ...

    def follow_up(self) -> None:
        """A step is over."""
        ...


class NoAcceleration:
    """Every step as ever."""

    def run(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor | None:
        """None."""
        return None

    def takes(self, segments: Sequence[Segment]) -> bool:
        """Never."""
        return False

    def follow_up(self) -> None:
        """Nothing."""


class Accelerated:
    """`prepare` gets kernels ready, on a thread of its own, for the layers that a first step went through."""

    def __init__(self, model: StageModel, steps: StaticSteps, prepare: Prepare) -> None:
        self._model, self._steps, self._prepare = model, steps, prepare
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._kernels: ModuleType | None = None
        self._on = False

    def run(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor | None:
        """See Acceleration."""
        if not self._on and self._ready.is_set() and self._model.complete:
            self._model.attention.paged.kernels = self._kernels
            if self._model.fusing is not None:
                self._model.fusing.on()
            self._on = True
        return self._steps.run(segments, x) if self.takes(segments) else None

    def takes(self, segments: Sequence[Segment]) -> bool:
        """See Acceleration."""
        return self._on and self._model.repeats and self._steps.takes(segments)

    def follow_up(self) -> None:
        """See Acceleration: after the first step kernels are got ready."""
        if self._thread is None:
            kinds = sorted(self._model.attention.paged.kinds, key=repr)
            self._thread = threading.Thread(target=self._get_ready, args=(kinds,), name="kernels", daemon=True)
            self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until everything is ready; whether it is."""
        return self._ready.wait(timeout_s)

    def _get_ready(self, kinds: Sequence[Kind]) -> None:
        try:
            self._kernels = self._prepare(kinds)
        except Exception:
            _log.exception("kernels of our own cannot be had; attention is torch's")
        self._ready.set()


@torch.inference_mode()
def prepare_kernels(fusing: Fusing, device: torch.device, kinds: Sequence[Kind]) -> ModuleType | None:
    """All kernels of our own for a model with layers of `kinds`; those of attention, or None where there is no Triton."""
    if not kernels.available():
        _log.info("there is no Triton: attention is torch's, and nothing is fused")
        return None
    attention = importlib.import_module("cluster.stage.kernels.attention")
    with torch.cuda.stream(torch.cuda.Stream(device)):
        for kind in kinds:
            attention.prepare(
                kind.heads,
                kind.kv_heads,
                kind.dim,
                kind.value_dim,
                kind.dtype,
                device,
                kind.rule.window,
                kind.rule.softcap,
            )
        fusing.prepare(device, kinds[0].dtype)
        torch.cuda.current_stream().synchronize()
    return attention


def means(
    forward: Callable[[torch.Tensor], torch.Tensor], model: StageModel, kv_tokens: int, device: torch.device
) -> tuple[SlabCache | PagedCache, Acceleration]:
    """What suits the device: the cache, and what makes steps fast behind the first."""
    if device.type == "cpu":
        return SlabCache(model.layers, kv_tokens, device), NoAcceleration()
    cache = PagedCache(model.layers, kv_tokens, device)
    model.attention.paged.flash = flash_attention
    model.fusing = Fusing(model.lm, _MATVEC_ROWS)
    steps = StaticSteps(model, forward, cache, CudaGraphs(device), device)
    return cache, Accelerated(model, steps, partial(prepare_kernels, model.fusing, device))
