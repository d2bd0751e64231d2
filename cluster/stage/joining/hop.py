"""What travels between neighbouring stages of a group: a header, hidden states, and once per request its parameters.

Over DeepSpeed's point-to-point calls. Sends are asynchronous; the tensors they read are kept until they are done.
Headers and tokens are on the CPU whatever the hidden states are on. Over NCCL these follow in the order of the GPU's
stream: neither sender nor receiver waits for them here.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import msgpack
import torch
from deepspeed import comm

from cluster.stage.joining.lines import Lines, open_lines
from cluster.stage.steps import Choice, Segment
from cluster.wire.requests import TokenLogprobs
from storage_tiers.pooling import Mode


class Op(IntEnum):
    """What a stage is to do with a hop."""

    STEP = 1
    FORGET = 2
    ALIVE = 3
    STOP = 4
    CLAIM = 5
    ADOPT = 6
    WORDS = 7


@dataclass(frozen=True)
class Header:
    """What comes: for STEP the segments whose hidden states follow, for FORGET the `slots` that ended. For CLAIM `numbers`
    are slot, tokens, and 1 while every stage has them, with the request's name as extra; for ADOPT slot, room, first and end
    token. WORDS has a vocabulary's as extra.

    `extra_bytes` follow the hidden states: for STEP parameters.
    """

    op: Op
    segments: tuple[Segment, ...] = ()
    slots: tuple[int, ...] = ()
    extra_bytes: int = 0
    numbers: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)


_SEGMENT_FIELDS = 7
_POOLINGS: tuple[Mode | None, ...] = (None, "mean", "last")
_INLINE = 8
"""Segments that travel in a header's first message; more need a second."""
_HEAD = 3
_NO_TOKEN = -1


class Neighbours:
    """This stage's two neighbours in the ring: receive from the one before, send to the one after.

    Hidden states travel from and to `device`. Every call raises RuntimeError when the other side is gone, at the latest
    after the group's timeout; StageFailed if the lines to them cannot be opened. On the way between GPUs it raises nothing:
    there a step that the GPU does not come to tells of it (cluster.stage.pulse).
    """

    KEPT_SENDS = 16

    def __init__(self, rank: int, degree: int, hidden_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._rank, self._degree = rank, degree
        self._before, self._after = (rank - 1) % degree, (rank + 1) % degree
        self._hidden_size, self._dtype, self._device = hidden_size, dtype, device
        self._sent: deque[tuple[Any, torch.Tensor]] = deque()
        self._lines: Lines | None = None

    def connect(self, within_s: float, failed: Callable[[str], None], open_: Callable[[], None] | None = None) -> None:
        """Begin to open the lines that NCCL would else open with the first hidden states, which wait for them; all stages
        must do so. `failed` is told, from another thread, if that cannot be, or not within `within_s`."""
        if open_ is None and self._device.type != "cpu":
            open_ = partial(open_lines, self._rank, self._degree, self._device)
        if open_ is not None:
            self._lines = Lines(open_, within_s, failed)

    def send(self, header: Header, hidden: torch.Tensor | None = None, extra: bytes = b"") -> None:
        """Pass a hop on; `hidden` is (1, T, hidden), on any device."""
        fields = [*header.slots, *header.numbers]
        for s in header.segments:
            fields += (s.slot, s.tokens, s.position, int(s.wanted), s.room, s.whole, _POOLINGS.index(s.pooling))
        room = _INLINE * _SEGMENT_FIELDS
        first = torch.zeros(_HEAD + room, dtype=torch.int64)
        first[:_HEAD] = torch.tensor([header.op, len(fields), len(extra)])
        first[_HEAD : _HEAD + len(fields[:room])] = torch.tensor(fields[:room], dtype=torch.int64)
        self._send(first)
        if len(fields) > room:
            self._send(torch.tensor(fields[room:], dtype=torch.int64))
        if hidden is not None:
            self._wait_for_lines()
            self._send(hidden.to(self._device).contiguous())
        if extra:
            self._send(torch.frombuffer(bytearray(extra), dtype=torch.uint8))

    def receive(self) -> tuple[Header, torch.Tensor | None, bytes]:
        """The next hop from the stage before."""
        room = _INLINE * _SEGMENT_FIELDS
        first = torch.empty(_HEAD + room, dtype=torch.int64)
        comm.recv(first, self._before)
        op, count, extra_bytes, *fields = first.tolist()
        if count > room:
            rest = torch.empty(count - room, dtype=torch.int64)
            comm.recv(rest, self._before)
            fields += rest.tolist()
        header = _header(Op(op), fields[:count], extra_bytes)
        hidden = None
        if header.op is Op.STEP:
            self._wait_for_lines()
            hidden = torch.empty(1, header.tokens, self._hidden_size, dtype=self._dtype, device=self._device)
            comm.recv(hidden, self._before)
        return header, hidden, self._receive_bytes(extra_bytes)

    def send_choices(self, choices: Sequence[Choice]) -> None:
        """From the last stage to the first: what a step gave."""
        known = [_beside(choice) for choice in choices]
        extra = msgpack.packb(known) if any(k is not None for k in known) else b""
        tokens = [_NO_TOKEN if choice.token is None else choice.token for choice in choices]
        self._send(torch.tensor([len(extra), *tokens], dtype=torch.int64))
        if extra:
            self._send(torch.frombuffer(bytearray(extra), dtype=torch.uint8))

    def receive_choices(self, count: int) -> list[Choice]:
        """At the first stage: the `count` choices of the oldest step under way."""
        fields = torch.empty(1 + count, dtype=torch.int64)
        comm.recv(fields, self._before)
        extra_bytes, *tokens = fields.tolist()
        known = msgpack.unpackb(self._receive_bytes(extra_bytes), use_list=False) if extra_bytes else [None] * count
        return [
            _choice(None if token == _NO_TOKEN else token, beside) for token, beside in zip(tokens, known, strict=True)
        ]

    def send_vectors(self, vectors: Sequence[torch.Tensor]) -> None:
        """Behind a step's choices: the vectors that it gave, if it gave any, all of one width, in float32."""
        if vectors:
            rows = torch.stack(list(vectors)).cpu()
            self._send(torch.tensor([rows.shape[1]], dtype=torch.int64))
            self._send(rows)

    def receive_vectors(self, count: int) -> list[torch.Tensor]:
        """At the first stage: the `count` vectors of the step whose choices were received last."""
        if not count:
            return []
        width = torch.empty(1, dtype=torch.int64)
        comm.recv(width, self._before)
        rows = torch.empty(count, int(width), dtype=torch.float32)
        comm.recv(rows, self._before)
        return list(rows)

    def drain(self) -> None:
        """Wait until every send is done."""
        while self._sent:
            self._sent.popleft()[0].wait()

    def _wait_for_lines(self) -> None:
        if self._lines is not None:
            self._lines.wait()
            self._lines = None

    def _receive_bytes(self, count: int) -> bytes:
        if not count:
            return b""
        data = torch.empty(count, dtype=torch.uint8)
        comm.recv(data, self._before)
        return data.numpy().tobytes()

    def _send(self, tensor: torch.Tensor) -> None:
        self._sent.append((comm.isend(tensor, self._after), tensor))
        while len(self._sent) > self.KEPT_SENDS:
            self._sent.popleft()[0].wait()


_Beside = tuple[tuple[float, tuple[tuple[int, float], ...]] | None, bool, bool, str | None]


def _beside(choice: Choice) -> _Beside | None:
    """What a choice has beside its token; None for nothing."""
    if choice == Choice(choice.token):
        return None
    logprobs = None if choice.logprobs is None else (choice.logprobs.logprob, choice.logprobs.top)
    return logprobs, choice.over, choice.later, choice.fault


def _choice(token: int | None, beside: _Beside | None) -> Choice:
    if beside is None:
        return Choice(token)
    logprobs, over, later, fault = beside
    return Choice(token, None if logprobs is None else TokenLogprobs(*logprobs), over, later, fault)


def _header(op: Op, fields: Sequence[int], extra_bytes: int) -> Header:
    if op in (Op.CLAIM, Op.ADOPT):
        return Header(op, numbers=tuple(fields), extra_bytes=extra_bytes)
    if op is not Op.STEP:
        return Header(op, slots=tuple(fields), extra_bytes=extra_bytes)
    groups = [fields[i : i + _SEGMENT_FIELDS] for i in range(0, len(fields), _SEGMENT_FIELDS)]
    segments = [
        Segment(slot, tokens, position, bool(wanted), room, whole, _POOLINGS[pooling])
        for slot, tokens, position, wanted, room, whole, pooling in groups
    ]
    return Header(op, tuple(segments), extra_bytes=extra_bytes)
