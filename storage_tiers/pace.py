"""Reads held to a set rate, all readers together: a slow wire in software."""

import contextlib
import threading
import time
from collections.abc import Iterator


class Pace:
    """So many bytes a second, and no more, pass by whoever reads within `held`. Thread-safe.

    Bytes are read first and then waited for, each read behind those that began before it: whoever is waited for, a peer
    say, is never held up himself.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_s = 0.0
        self._over = threading.Event()

    @contextlib.contextmanager
    def held(self, size_bytes: int) -> Iterator[None]:
        """Ends no earlier than so many bytes have passed; at once if the read within fails."""
        with self._lock:
            self._free_s = until_s = max(self._free_s, time.monotonic()) + size_bytes / self._bytes_per_s
        yield
        self._over.wait(max(0.0, until_s - time.monotonic()))

    def close(self) -> None:
        """Nobody is held any more, from now on."""
        self._over.set()
