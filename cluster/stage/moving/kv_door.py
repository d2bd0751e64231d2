"""What a stage says to those who come to its door for KV cache: other stages, which read it, and whoever has the group, which
has it brought here.
"""

import asyncio
import math
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from cluster.errors import NoKv, ProtocolError
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.moving.fetching import fetch
from cluster.stage.moving.reading import Reading
from cluster.stage.moving.shelf import UNCLAIMED_S, Shelf
from cluster.wire.codec import frame, read_frame
from cluster.wire.kv import AskKv, DropKv, KvHead, KvPulled, PullKv

_AT_ONCE = 2
"""Pulls, and pieces that are read; others wait for their turn."""
_PART_BYTES = 512 << 10
"""Of what is written at a time: tokens go over the same loop."""
_LONGEST_S = 600.0


class KvDoor:
    """A stage's, whose layers are [first_layer, end_layer). `exports`: what it has may be read by others at all."""

    def __init__(
        self, cache: SlabCache | PagedCache, shelf: Shelf, device: torch.device, first_layer: int, end_layer: int,
        exports: bool, tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._cache, self._shelf = cache, shelf
        self._first_layer, self._end_layer, self._exports, self._tls = first_layer, end_layer, exports, tls
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._readers = ThreadPoolExecutor(_AT_ONCE, "read kv")
        self._pullers = ThreadPoolExecutor(_AT_ONCE, "pull kv")

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one caller, question by question, until it leaves. ProtocolError for what is no question, or if what was
        asked for is gone before it was read."""
        while (message := await read_frame(reader)) is not None:
            if isinstance(message, AskKv):
                await self._give(message, writer)
            elif isinstance(message, PullKv):
                pulled = await self._pull(message)
                if reader.at_eof() or writer.is_closing():
                    self._shelf.drop(message.request)
                writer.write(frame(pulled))
            elif isinstance(message, DropKv):
                self._shelf.drop(message.request)
            else:
                raise ProtocolError(f"{type(message).__name__} is not asked for KV cache")

    async def _give(self, ask: AskKv, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            reading = await loop.run_in_executor(self._readers, self._read, ask)
        except NoKv as error:
            writer.write(frame(KvHead(0, (), (), "", str(error))))
            return
        writer.write(frame(reading.head))
        for piece in reading.pieces():
            try:
                data = await loop.run_in_executor(self._readers, reading.read, piece)
            except NoKv as error:
                raise ProtocolError(str(error)) from error
            for first in range(0, len(data), _PART_BYTES):
                writer.write(data[first : first + _PART_BYTES])
                await writer.drain()

    def _read(self, ask: AskKv) -> Reading:
        if not self._exports:
            raise NoKv("what this model caches depends on more than tokens and their positions")
        if not self._first_layer <= ask.first_layer < ask.end_layer <= self._end_layer:
            raise NoKv(f"the stage has layers {self._first_layer} to {self._end_layer - 1} alone")
        return Reading(self._cache, self._first_layer, ask, self._stream)

    async def _pull(self, order: PullKv) -> KvPulled:
        since_s = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            if not 0 < order.timeout_s < math.inf:
                raise NoKv(f"nothing comes within {order.timeout_s} s")
            self._shelf.reserve(order.request, order.tokens, min(order.timeout_s, _LONGEST_S))
            try:
                bring = partial(fetch, order, self._first_layer, self._end_layer, self._tls, self._stream is not None)
                kept = await loop.run_in_executor(self._pullers, bring)
                self._shelf.keep(order.request, kept)
            except BaseException:
                self._shelf.drop(order.request)
                raise
        except NoKv as error:
            return KvPulled(order.request, 0, time.monotonic() - since_s, str(error))
        loop.call_later(UNCLAIMED_S + 1.0, self._shelf.tidy)
        return KvPulled(order.request, kept.size_bytes, time.monotonic() - since_s)
