"""What copying to a GPU asks of CUDA, and nothing else: a fake of these few calls stands in for a GPU."""

from collections.abc import Sequence
from typing import Protocol

import torch

_REGISTER_READ_ONLY = 0x08
_LOWEST_PRIORITY = 0


class Mark(Protocol):
    """A moment in a row of copies, as torch.cuda.Event has it."""

    def synchronize(self) -> None:
        """Wait, asleep, until all that was queued before it is done."""
        ...

    def elapsed_time(self, end: "Mark") -> float:
        """Milliseconds from here to `end`, once both are past."""
        ...


class Driver(Protocol):
    """Copies to one device, queued one after the other. `register` and `unregister` may be called from another thread."""

    def register(self, address: int, size_bytes: int) -> str:
        """Pin memory that this process has mapped for reading; empty, or why the driver refuses."""
        ...

    def unregister(self, address: int) -> None:
        """Undo what `register` did at the address. Nothing may be copied from there any more."""
        ...

    def room(self, size_bytes: int) -> torch.Tensor:
        """Bytes on the device. RuntimeError if it has not so many."""
        ...

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Bytes on the host that the device reads at full speed."""
        ...

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        """Queue copies from pinned memory, one for each pair, in order."""
        ...

    def mark(self) -> Mark:
        """Queue a moment that can be waited for."""
        ...


class CudaDriver:
    """A Driver by torch, on a stream of its own. The process gets a context on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Priorities of streams do not apply to copies: a step's own small ones get their turn between those queued here.
        self._stream = torch.cuda.Stream(device, priority=_LOWEST_PRIORITY)

    def register(self, address: int, size_bytes: int) -> str:
        runtime = torch.cuda.cudart()
        result = runtime.cudaHostRegister(address, size_bytes, _REGISTER_READ_ONLY)
        return "" if result == runtime.cudaError.success else str(runtime.cudaGetErrorString(result))

    def unregister(self, address: int) -> None:
        torch.cuda.cudart().cudaHostUnregister(address)

    def room(self, size_bytes: int) -> torch.Tensor:
        # It must come from this stream: memory that another one frees may still be read there.
        with torch.cuda.stream(self._stream):
            return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)

    def pinned(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        # One call for all: after each this thread waits for Python's lock, which who builds the skeleton is slow to give.
        with torch.cuda.stream(self._stream):
            torch._foreach_copy_(targets, sources, non_blocking=True)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(self._stream)
        return event
