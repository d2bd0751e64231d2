"""Out of a stage's KV cache, piece by piece, while its loop goes on: tokens that have landed are never written again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cluster.errors import NoKv
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.wire.kv import AskKv, KvHead

PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Piece:
    """Keys or `values` of tokens [first, end) of a layer, counted from the stage's first."""

    layer: int
    values: bool
    first: int
    end: int


class Reading:
    """What was asked for, of a stage whose layers begin with `first_layer`. For one thread at a time, beside the loop's.

    On a GPU it waits for what the device was told before, and nothing that it is told waits for it. NoKv if it is not there,
    or not all layers are of one kind.
    """

    def __init__(
        self, cache: SlabCache | PagedCache, first_layer: int, ask: AskKv, stream: "torch.cuda.Stream | None" = None
    ) -> None:
        self._cache, self._slot, self._stream = cache, ask.slot, stream
        if stream is not None:
            stream.wait_stream(torch.cuda.default_stream(stream.device))
        self._layers = range(ask.first_layer - first_layer, ask.end_layer - first_layer)
        self._tokens = ask.tokens
        self._place: Any = cache.holds(ask.slot)
        if self._place is None or ask.tokens < 1:
            raise NoKv(f"the stage has no request {ask.slot} with {ask.tokens} tokens")
        kinds = {(self._kind(layer, False), self._kind(layer, True)) for layer in self._layers}
        if len(kinds) > 1:
            raise NoKv("the KV cache of the stage's layers is of several kinds")
        (((keys, dtype, self._key_bytes), (values, _, self._value_bytes)),) = kinds
        size_bytes = len(self._layers) * ask.tokens * (self._key_bytes + self._value_bytes)
        self.head = KvHead(size_bytes, keys, values, str(dtype).removeprefix("torch."))

    def pieces(self) -> Iterator[Piece]:
        """All of it, in order."""
        for layer in self._layers:
            for values in (False, True):
                step = max(1, PIECE_BYTES // (self._value_bytes if values else self._key_bytes))
                for first in range(0, self._tokens, step):
                    yield Piece(layer, values, first, min(first + step, self._tokens))

    @torch.inference_mode()
    def read(self, piece: Piece) -> memoryview:
        """A copy of its bytes. NoKv if the request was over before they were read."""
        if self._stream is None:
            data = self._take(piece).contiguous().clone()
        else:
            with torch.cuda.stream(self._stream):
                taken = self._take(piece)
                data = torch.empty(taken.shape, dtype=taken.dtype, pin_memory=True).copy_(taken, non_blocking=True)
                self._stream.synchronize()
        if self._cache.holds(self._slot) is not self._place:
            raise NoKv("the request was over before its KV cache was read")
        return bytes_of(data)

    def _take(self, piece: Piece) -> torch.Tensor:
        return self._cache.read(self._place, piece.layer, piece.values, piece.first, piece.end)

    def _kind(self, layer: int, values: bool) -> tuple[tuple[int, ...], torch.dtype, int]:
        """Shape, kind and bytes of one token's."""
        last = self._cache.read(self._place, layer, values, self._tokens, self._tokens)
        shape = tuple(last.shape[1:])
        return shape, last.dtype, last.new_empty(shape).nbytes


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host, to be read and written."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())
