"""A GPU's driver that is played: copies are done when somebody waits for them, one a millisecond, and no sooner."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


class FakeMark:
    """A moment in the row of copies; `at_ms` once it is past."""

    def __init__(self, driver: "FakeDriver") -> None:
        self._driver = driver
        self.at_ms: float | None = None

    def synchronize(self) -> None:
        self._driver.run_until(self)

    def elapsed_time(self, end: "FakeMark") -> float:
        assert self.at_ms is not None
        assert end.at_ms is not None
        return end.at_ms - self.at_ms


@dataclass
class FakeDriver:
    """Refuses what cannot be done: a copy from memory that is not pinned, or across two registrations; pinning twice.

    `pins` at most are made, and none while `may_pin` is not set. A wait goes on only when `may_go_on` is set.
    """

    pins: int = 1 << 30
    room_bytes: int = 1 << 40
    may_pin: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)
    pins_now: threading.Event = field(default_factory=threading.Event)
    asked: list[int] = field(default_factory=list)
    pinned_ranges: dict[int, int] = field(default_factory=dict)
    buffers: list[torch.Tensor] = field(default_factory=list)
    rooms: list[torch.Tensor] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    unpinned: int = 0
    fault: str = ""

    def __post_init__(self) -> None:
        self.may_pin.set()
        self.may_go_on.set()
        self._lock = threading.Lock()
        self._row: list[FakeMark | Callable[[], None]] = []
        self._now_ms = 0.0

    def register(self, address: int, size_bytes: int) -> str:
        self.pins_now.set()
        assert self.may_pin.wait(30)
        with self._lock:
            self.asked.append(address)
            if len(self.pinned_ranges) >= self.pins:
                return "operation not supported"
            assert all(
                address + size_bytes <= start or start + size <= address for start, size in self.pinned_ranges.items()
            )
            self.pinned_ranges[address] = size_bytes
            return ""

    def unregister(self, address: int) -> None:
        with self._lock:
            del self.pinned_ranges[address]
            self.unpinned += 1

    def room(self, size_bytes: int) -> torch.Tensor:
        if size_bytes > self.room_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.rooms.append(torch.full((size_bytes,), 0xEE, dtype=torch.uint8))
        return self.rooms[-1]

    def pinned(self, size_bytes: int) -> torch.Tensor:
        buffer = torch.zeros(size_bytes, dtype=torch.uint8)
        self.buffers.append(buffer)
        return buffer

    def copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        for target, source in zip(targets, sources, strict=True):
            self._queue(target, source)

    def _queue(self, target: torch.Tensor, source: torch.Tensor) -> None:
        start, size = source.data_ptr(), len(source)
        with self._lock:
            pinned = [*self.pinned_ranges.items(), *((each.data_ptr(), len(each)) for each in self.buffers)]
            inside = any(at <= start and start + size <= at + most for at, most in pinned)
            if not inside:
                raise RuntimeError("invalid argument: a copy from memory that is not pinned, or is by halves")
            self._row.append(lambda: self._carry_out(target, source))

    def mark(self) -> FakeMark:
        with self._lock:
            made = FakeMark(self)
            self._row.append(made)
            return made

    @property
    def queued(self) -> int:
        """Copies that are not done."""
        with self._lock:
            return sum(not isinstance(each, FakeMark) for each in self._row)

    def run_until(self, mark: FakeMark) -> None:
        """Do what was queued before the moment."""
        assert self.may_go_on.wait(30)
        if self.fault:
            raise RuntimeError(self.fault)
        with self._lock:
            while mark.at_ms is None:
                each = self._row.pop(0)
                if isinstance(each, FakeMark):
                    each.at_ms = self._now_ms
                else:
                    each()

    def _carry_out(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)
        self.copied.append(len(source))
        self._now_ms += 1.0
