"""A request's KV cache from the stages of another group, over one connection to each that has layers of ours."""

import math
import socket
import ssl
import time
from collections.abc import Iterator

import torch

from cluster.errors import NoKv, ProtocolError
from cluster.stage.moving.reading import bytes_of
from cluster.stage.moving.shelf import Kept, Layer
from cluster.wire.codec import frame, receive_frame
from cluster.wire.hello import Hello
from cluster.wire.kv import AskKv, KvHead, KvSource, PullKv

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


def fetch(
    order: PullKv, first_layer: int, end_layer: int, tls: ssl.SSLContext | None = None, pinned: bool = False
) -> Kept:
    """The KV cache of layers [first_layer, end_layer). NoKv if it cannot be had, or not in time."""
    until_s = time.monotonic() + order.timeout_s
    layers: list[Layer] = []
    try:
        for source, first, end in _shares(order, first_layer, end_layer):
            layers += _Source(source, until_s, tls, pinned).layers(order.tokens, first, end)
    except TimeoutError as error:
        raise NoKv(f"the KV cache of request {order.request} did not come within {order.timeout_s:.1f} s") from error
    except (OSError, ProtocolError) as error:
        raise NoKv(f"the KV cache of request {order.request} did not come: {error}") from error
    return Kept(order.tokens, tuple(layers))


def _shares(order: PullKv, first_layer: int, end_layer: int) -> Iterator[tuple[KvSource, int, int]]:
    """Which layers come from whom, in order."""
    while first_layer < end_layer:
        source = next((s for s in order.sources if s.first_layer <= first_layer < s.end_layer), None)
        if source is None:
            raise NoKv(f"no stage was named that has layer {first_layer}")
        end = min(source.end_layer, end_layer)
        yield source, first_layer, end
        first_layer = end


class _Source:
    """One stage that has some of it, asked until a time is over."""

    def __init__(self, source: KvSource, until_s: float, tls: ssl.SSLContext | None, pinned: bool) -> None:
        self._source, self._until_s, self._tls, self._pinned = source, until_s, tls, pinned

    def layers(self, tokens: int, first: int, end: int) -> list[Layer]:
        source = self._source
        with socket.create_connection((source.host, source.port), self._left_s()) as plain:
            plain.settimeout(self._left_s())
            with self._tls.wrap_socket(plain) if self._tls is not None else plain as line:
                hello, ask = Hello(source.group, source.secret, kv=True), AskKv(source.slot, tokens, first, end)
                line.sendall(frame(hello) + frame(ask))
                head = receive_frame(line)
                if not isinstance(head, KvHead):
                    raise ProtocolError(f"{type(head).__name__} is no answer")
                return [self._layer(line, tokens, *_kind(head, tokens, end - first)) for _ in range(first, end)]

    def _layer(
        self, line: socket.socket, tokens: int, keys: tuple[int, ...], values: tuple[int, ...], dtype: torch.dtype
    ) -> Layer:
        own = [torch.empty(tokens, *shape, dtype=dtype, pin_memory=self._pinned) for shape in (keys, values)]
        for tensor in own:
            self._receive(line, bytes_of(tensor))
        return own[0], own[1]

    def _receive(self, line: socket.socket, data: memoryview) -> None:
        while data:
            line.settimeout(self._left_s())
            count = line.recv_into(data)
            if not count:
                raise ConnectionError("the other stage has it no more")
            data = data[count:]

    def _left_s(self) -> float:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _kind(head: KvHead, tokens: int, layers: int) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    if head.fault:
        raise NoKv(head.fault)
    dtype = _DTYPES.get(head.dtype)
    if dtype is None or len(head.key_shape) != 2 or len(head.value_shape) != 2:
        raise ProtocolError(f"KV cache of {head.dtype} {head.key_shape} and {head.value_shape} is none")
    numbers = math.prod(head.key_shape) + math.prod(head.value_shape)
    if head.size_bytes != layers * tokens * numbers * dtype.itemsize:
        raise ProtocolError(f"{head.size_bytes} bytes are not what {layers} layers of {tokens} tokens have")
    return head.key_shape, head.value_shape, dtype
