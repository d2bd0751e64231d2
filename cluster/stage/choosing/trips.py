"""A step's way to the device and back: one copy there, one copy here, and nobody waits until the answer is wanted."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_LEAST_BYTES = 4096


class Mark(Protocol):
    """A point in a device's work."""

    def synchronize(self) -> None:
        """Wait until it is reached."""
        ...


class Trips:
    """Buffers on the host that a device copies from and to on its own, kept by size and used again."""

    def __init__(self, device: torch.device, allocate: Callable[[int], Tensor], mark: Callable[[], Mark]) -> None:
        """`allocate` gives so many bytes as (bytes,) of uint8, `mark` the point after all that was asked of the device."""
        self.device = device
        self._allocate, self._mark = allocate, mark
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)

    def start(self) -> "Trip":
        return Trip(self)

    def lend(self, size_bytes: int) -> Tensor:
        """A buffer of at least so many bytes."""
        room = max(_LEAST_BYTES, 1 << (size_bytes - 1).bit_length())
        return self._free[room].pop() if self._free[room] else self._allocate(room)

    def take_back(self, buffer: Tensor) -> None:
        """The device is done with it."""
        self._free[len(buffer)].append(buffer)

    def mark(self) -> Mark:
        return self._mark()


class Trip:
    """One step's: `send`, then `fetch`, each at most once, then `wait`, which gives the buffers back."""

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self._buffers: list[Tensor] = []
        self._answer: Tensor | None = None
        self._mark: Mark | None = None

    def send(self, parts: Sequence[np.ndarray]) -> Tensor:
        """The numbers of all parts in a row on the device, (numbers,) in float64."""
        count = sum(part.size for part in parts)
        sent = self._borrow(8 * count).view(torch.float64)
        flat, at = sent.numpy(), 0
        for part in parts:
            flat[at : at + part.size] = part.ravel()
            at += part.size
        return sent.to(self._trips.device, non_blocking=True, copy=True)

    def fetch(self, answer: Tensor) -> None:
        """Ask for the device's `answer`."""
        here = self._borrow(answer.numel() * answer.element_size()).view(answer.dtype).view(answer.shape)
        self._answer = here.copy_(answer, non_blocking=True)
        self._mark = self._trips.mark()

    def wait(self) -> list:
        """The answer, when it is there."""
        assert self._mark is not None, "nothing was asked for, or it was given"
        assert self._answer is not None
        self._mark.synchronize()
        answer = self._answer.tolist()
        while self._buffers:
            self._trips.take_back(self._buffers.pop())
        self._mark = None
        return answer

    def _borrow(self, size_bytes: int) -> Tensor:
        buffer = self._trips.lend(size_bytes)
        self._buffers.append(buffer)
        return buffer[:size_bytes]


def cuda_trips(device: torch.device) -> Trips:
    """Over pinned memory; whoever waits sleeps instead of keeping a core busy."""

    def mark() -> Mark:
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return Trips(device, partial(torch.empty, dtype=torch.uint8, pin_memory=True), mark)
