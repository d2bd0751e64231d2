"""What a forward pass waits at."""

import threading
from collections.abc import Callable

from cluster.errors import StageFailed


class Gate:
    """What stands before a module until its unit is there. Opens once.

    Waiting has a deadline, and fails early if the stage is told why the gate will never open.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._cause: str | None = None

    @property
    def is_open(self) -> bool:
        return self._event.is_set() and self._cause is None

    def open(self) -> None:
        self._event.set()

    def fail(self, cause: str) -> None:
        """Those who wait, now or later, get StageFailed with `cause`."""
        self._cause = cause
        self._event.set()

    def wait(self, what: str, timeout_s: float) -> None:
        if not self._event.wait(timeout_s):
            raise StageFailed(f"{what} did not arrive within {timeout_s:.0f} s")
        if self._cause is not None:
            raise StageFailed(self._cause)


WaitForUnit = Callable[[str, Gate], None]
"""Called when a forward pass needs a unit whose gate is not open; returns when it is, or raises StageFailed."""
