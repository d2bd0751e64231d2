"""Decode steps of fixed sizes over buffers that stay where they are, so that each can be captured once and replayed.

What differs between two steps are numbers in one small buffer, which is copied to the device before each: tokens, positions
and rows of the cache's table. Lengths, places and pages follow from them there. A step of fewer requests than its size is
filled up with requests of nobody. What is no such step, or is not allowed yet, is computed as ever.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from cluster.stage.attending.paged import NOBODY, PAGE_TOKENS, PagedCache, PagedPlan, Rows, reach_of
from cluster.stage.building.model import StageModel
from cluster.stage.steps import Segment

_log = logging.getLogger(__name__)
SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_TOKENS, _POSITIONS, _ROWS = range(3)
_STAGES_UNDER_WAY = 4
Compute = Callable[[], torch.Tensor]


class Capture(Protocol):
    """Makes of a computation one that is told to the device at once, from then on."""

    def capture(self, compute: Compute) -> Compute:
        """The same computation to be repeated; its result is in the same memory each time. RuntimeError if it cannot be."""
        ...

    def forget(self) -> None:
        """Nothing that was captured is used any more."""
        ...

    def staging(self, numbers: torch.Tensor) -> "Staging":
        """The way for a step's numbers into `numbers` on the device."""
        ...


class Staging(Protocol):
    """A buffer on the host, and the copy of it to the device."""

    def send(self, fill: Callable[[torch.Tensor], None]) -> None:
        """Have the buffer filled, then copied in the order of what is computed."""
        ...


class CudaGraphs:
    """Captures as CUDA graphs that share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def capture(self, compute: Compute) -> Compute:
        """See Capture. Other threads may allocate meanwhile, so only this one is held to what a capture allows."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = compute()
        except RuntimeError:
            # torch leaves the thread in the capture's stream, and its random numbers as if a capture were under way
            torch.cuda.set_stream(before)
            numbers = torch.cuda.default_generators[before.device_index]
            numbers.graphsafe_set_state(torch.Generator(before.device).graphsafe_get_state())
            raise

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def forget(self) -> None:
        """See Capture. A pool ends with the last graph that is in it."""
        self._pool = torch.cuda.graph_pool_handle()

    def staging(self, numbers: torch.Tensor) -> "Staging":
        """See Capture."""
        return _PinnedStaging(numbers)


class _PinnedStaging:
    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers = numbers
        self._buffers = [
            (torch.zeros(numbers.shape, dtype=numbers.dtype, pin_memory=True), torch.cuda.Event())
            for _ in range(_STAGES_UNDER_WAY)
        ]
        self._next = 0

    def send(self, fill: Callable[[torch.Tensor], None]) -> None:
        buffer, sent = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        sent.synchronize()  # at once unless so many steps are under way
        fill(buffer)
        self._numbers.copy_(buffer, non_blocking=True)
        sent.record()


class StaticSteps:
    """The static steps of one stage whose model's attention is over `cache`. Use from the thread that computes.

    A size is computed once as it stands, then captured, and replayed from the next step on. As many captures are kept as
    there are sizes: with kernels each has one, without there are more, of which the one not replayed for longest goes.
    """

    def __init__(
        self, model: StageModel, forward: Callable[[torch.Tensor], torch.Tensor], cache: PagedCache, capture: Capture,
        device: torch.device, sizes: Sequence[int] = SIZES,
    ) -> None:  # fmt: skip
        self._model, self._forward, self._cache, self._capture = model, forward, cache, capture
        self._sizes = sizes
        self._numbers = torch.zeros(3, sizes[-1], dtype=torch.int64, device=device)
        self._staging = capture.staging(self._numbers)
        self._hidden: torch.Tensor | None = None
        self._last = torch.arange(sizes[-1], device=device)
        self._seen: set[tuple[int, int]] = set()
        self._captured: dict[tuple[int, int], Compute] = {}
        self._table = cache.table
        self._refused = False

    @property
    def captured(self) -> int:
        """Steps that are replayed."""
        return len(self._captured)

    def takes(self, segments: Sequence[Segment]) -> bool:
        """Whether these are one new token each, of no more requests than the largest size."""
        return len(segments) <= self._sizes[-1] and all(s.tokens == 1 and s.position and s.wanted for s in segments)

    def run(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor:
        """The result for `x`, the tokens (1, T) or hidden states (1, T, hidden). The next `run` may write over logits; hidden
        states may still be on their way to the next stage then, and are a copy."""
        for segment in segments:
            self._cache.place(segment.slot, segment.room)
        if self._cache.table is not self._table:
            self._drop()
        count = len(segments)
        size = next(size for size in self._sizes if size >= count)
        kind = size, self._reach(segments)
        self._feed(segments, x)
        compute = self._captured.pop(kind, None)
        if compute is not None:
            self._captured[kind] = compute
        elif kind in self._seen and not self._refused:
            compute = self._try(kind)
        self._seen.add(kind)
        out = self._compute(*kind) if compute is None else compute()
        return out[:, :count] if self._model.last else out[:, :count].clone()

    def _try(self, kind: tuple[int, int]) -> Compute | None:
        try:
            compute = self._capture.capture(lambda: self._compute(*kind))
        except RuntimeError as error:
            _log.warning("this model's steps cannot be captured, and are told to the device one by one: %s", error)
            self._refused = True
            return None
        while len(self._captured) >= len(self._sizes):
            del self._captured[next(iter(self._captured))]
        self._captured[kind] = compute
        return compute

    def _drop(self) -> None:
        """The table lies elsewhere: what was captured reads the old one."""
        self._captured.clear()
        self._capture.forget()
        self._table = self._cache.table

    def _reach(self, segments: Sequence[Segment]) -> int:
        pages = self._table.shape[1]
        if self._model.attention.paged.kernels is not None:
            return pages * PAGE_TOKENS
        return reach_of(max(segment.position for segment in segments) + 1, pages)

    def _feed(self, segments: Sequence[Segment], x: torch.Tensor) -> None:
        count, first = len(segments), self._model.first
        from_host = first and x.device.type == "cpu"

        def fill(numbers: torch.Tensor) -> None:
            table = numbers.numpy()
            table[:, count:] = NOBODY
            if from_host:
                table[_TOKENS, :count] = x[0].numpy()
            table[_POSITIONS, :count] = [segment.position for segment in segments]
            table[_ROWS, :count] = [self._cache.row(segment.slot) for segment in segments]

        self._staging.send(fill)
        if first and not from_host:
            self._numbers[_TOKENS, :count].copy_(x[0])
        if not first:
            if self._hidden is None:
                shape = 1, self._sizes[-1], x.shape[2]
                self._hidden = torch.zeros(shape, dtype=x.dtype, device=self._numbers.device)
            self._hidden[:, :count].copy_(x, non_blocking=True)

    def _compute(self, size: int, reach: int) -> torch.Tensor:
        numbers = self._numbers[:, :size]
        positions, rows = numbers[_POSITIONS], numbers[_ROWS]
        pages = self._table[rows, positions // PAGE_TOKENS].long()
        to = pages * PAGE_TOKENS + positions % PAGE_TOKENS
        decode = Rows(None, rows, (positions + 1).int(), self._table, reach)
        plan = PagedPlan(self._cache.arena, (), positions[None], self._last[:size], to, decode, ())
        self._model.turn_to(plan)
        if self._model.first:
            return self._forward(numbers[_TOKENS][None])
        assert self._hidden is not None
        return self._forward(self._hidden[:, :size])
