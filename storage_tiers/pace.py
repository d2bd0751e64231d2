"""Reads held to a set rate, all readers together: a slow wire in software."""

import contextlib
import threading
import time
from collections.abc import Iterator

_SLICE_S = 0.01
_SMALLEST_SLICE_BYTES = 64 << 10


class Pace:
    """So many bytes a second, and no more, pass by whoever reads within `held`, in turns as on a wire. Thread-safe.

    Bytes are read first and waited for afterwards, so that whoever sends them is never held up; what the reading took counts.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._slice_bytes = max(_SMALLEST_SLICE_BYTES, int(bytes_per_s * _SLICE_S))
        self._lock = threading.Lock()
        self._free_s = 0.0
        self._over = threading.Event()

    @contextlib.contextmanager
    def held(self, size_bytes: int) -> Iterator[None]:
        """Ends no earlier than so many bytes have passed; at once if the read within fails."""
        began_s = time.monotonic()
        yield
        while size_bytes > 0 and not self._over.is_set():
            passing = min(size_bytes, self._slice_bytes)
            size_bytes -= passing
            with self._lock:
                self._free_s = until_s = max(self._free_s, began_s) + passing / self._bytes_per_s
            self._over.wait(max(0.0, until_s - time.monotonic()))

    def close(self) -> None:
        """Nobody is held any more, from now on."""
        self._over.set()
