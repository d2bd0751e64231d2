"""What travels between neighbouring stages of a group: a header, hidden states, and once per request its parameters.

Over DeepSpeed's point-to-point calls. Sends are asynchronous; the tensors they read are kept until they are done.
"""

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from deepspeed import comm


class Op(IntEnum):
    """What a stage is to do with a hop."""

    STEP = 1
    FORGET = 2
    ALIVE = 3
    STOP = 4


@dataclass(frozen=True)
class Header:
    """`slot` names the request, `tokens` (T) start at `position`; `extra_bytes` of parameters follow the hidden states."""

    op: Op
    slot: int = 0
    tokens: int = 0
    position: int = 0
    extra_bytes: int = 0


class Neighbours:
    """This stage's two neighbours in the ring: receive from the one before, send to the one after.

    Every call raises RuntimeError when the other side is gone, at the latest after the group's timeout.
    """

    KEPT_SENDS = 16

    def __init__(self, rank: int, degree: int, hidden_size: int, dtype: torch.dtype) -> None:
        self._before, self._after = (rank - 1) % degree, (rank + 1) % degree
        self._hidden_size, self._dtype = hidden_size, dtype
        self._sent: deque[tuple[Any, torch.Tensor]] = deque()

    def send(self, header: Header, hidden: torch.Tensor | None = None, extra: bytes = b"") -> None:
        """Pass a hop on; `hidden` is (1, T, hidden)."""
        fields = [header.op, header.slot, header.tokens, header.position, len(extra)]
        self._send(torch.tensor(fields, dtype=torch.int64))
        if hidden is not None:
            self._send(hidden.contiguous())
        if extra:
            self._send(torch.frombuffer(bytearray(extra), dtype=torch.uint8))

    def receive(self) -> tuple[Header, torch.Tensor | None, bytes]:
        """The next hop from the stage before."""
        fields = torch.empty(5, dtype=torch.int64)
        comm.recv(fields, self._before)
        op, slot, tokens, position, extra_bytes = fields.tolist()
        header = Header(Op(op), slot, tokens, position, extra_bytes)
        hidden = None
        if header.op is Op.STEP:
            hidden = torch.empty(1, tokens, self._hidden_size, dtype=self._dtype)
            comm.recv(hidden, self._before)
        extra = b""
        if extra_bytes:
            data = torch.empty(extra_bytes, dtype=torch.uint8)
            comm.recv(data, self._before)
            extra = bytes(data.numpy())
        return header, hidden, extra

    def send_token(self, token: int) -> None:
        """From the last stage to the first: the token that a step gave."""
        self._send(torch.tensor([token], dtype=torch.int64))

    def receive_token(self) -> int:
        """At the first stage: the token of the oldest step under way."""
        token = torch.empty(1, dtype=torch.int64)
        comm.recv(token, self._before)
        return int(token)

    def drain(self) -> None:
        """Wait until every send is done."""
        while self._sent:
            self._sent.popleft()[0].wait()

    def _send(self, tensor: torch.Tensor) -> None:
        self._sent.append((comm.isend(tensor, self._after), tensor))
        while len(self._sent) > self.KEPT_SENDS:
            self._sent.popleft()[0].wait()
