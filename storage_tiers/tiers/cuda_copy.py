"""From memory on the host to a CUDA device, beside what the device computes.

A GPU reads host memory at the speed of its bus only where the pages are pinned. The memory of a unit is mapped
read-only: some machines pin that as it is (cudaHostRegisterReadOnly), others refuse; there the bytes go through a few
pinned buffers, and copying into one overlaps with the transfer of another.
"""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_log = logging.getLogger(__name__)
CHUNK_BYTES = 16 << 20
"""Copied at a time. Priorities of streams do not apply to copies: a step's own small ones get their turn between these."""
_BUFFERS = 3
_REGISTER_READ_ONLY = 0x08
_LOWEST_PRIORITY = 0


def chunks(size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> list[tuple[int, int]]:
    """[start, end) of the pieces that `size_bytes` are copied in, in order."""
    return [(start, min(start + chunk_bytes, size_bytes)) for start in range(0, size_bytes, chunk_bytes)]


class CudaCopy:
    """Copies to one device, on a stream of its own. Use from one thread; without `register` memory is never pinned."""

    def __init__(self, device: torch.device, register: bool = True) -> None:
        self._device, self._register = device, register
        self._stream = torch.cuda.Stream(device, priority=_LOWEST_PRIORITY)
        self._buffers: list[tuple[torch.Tensor, torch.cuda.Event]] = []

    def copy(self, memory: "ctypes.Array[ctypes.c_char]", size_bytes: int) -> torch.Tensor:
        """The first `size_bytes` of `memory` in one buffer on the device (uint8), when they are all there.

        Any stream may read them then. torch.OutOfMemoryError (a RuntimeError) if the device has no room.
        """
        source = torch.frombuffer(memory, dtype=torch.uint8, count=size_bytes)
        # The buffer must come from this stream too: memory that another stream frees may still be read there.
        with torch.cuda.stream(self._stream):
            target = torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
            with self._pinned(memory) as pinned:
                if pinned:
                    for start, end in chunks(size_bytes):
                        target[start:end].copy_(source[start:end], non_blocking=True)
                else:
                    self._through_buffers(source, target)
                self._wait()
        return target

    @contextmanager
    def _pinned(self, memory: "ctypes.Array[ctypes.c_char]") -> Iterator[bool]:
        """Pin `memory` for the block; False where the driver refuses, which it then does for every unit."""
        runtime, address = torch.cuda.cudart(), ctypes.addressof(memory)
        if self._register:
            result = runtime.cudaHostRegister(address, len(memory), _REGISTER_READ_ONLY)
            self._register = result == runtime.cudaError.success
            if not self._register:  # it stays this thread's last error, which only launches of kernels look at
                _log.info("units are not pinned in place: %s", runtime.cudaGetErrorString(result))
        pinned = self._register
        try:
            yield pinned
        finally:
            if pinned:
                runtime.cudaHostUnregister(address)

    def _through_buffers(self, source: torch.Tensor, target: torch.Tensor) -> None:
        if not self._buffers:
            self._buffers = [
                (torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=True), torch.cuda.Event(blocking=True))
                for _ in range(_BUFFERS)
            ]
        for number, (start, end) in enumerate(chunks(len(source))):
            buffer, sent = self._buffers[number % _BUFFERS]
            sent.synchronize()  # returns at once if nothing was sent from it yet
            buffer[: end - start].copy_(source[start:end])
            target[start:end].copy_(buffer[: end - start], non_blocking=True)
            sent.record(self._stream)

    def _wait(self) -> None:
        """Until all copies are done, asleep rather than spinning: the cores are the decode loop's."""
        done = torch.cuda.Event(blocking=True)
        done.record(self._stream)
        done.synchronize()
