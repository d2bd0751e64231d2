"""What a process holds of the machine's memory: its own pages and memfds, mapped or not. The page cache is not its."""

import os
import threading
from types import TracebackType

_SAMPLE_S = 0.01


def memfd_bytes(pid: int | str) -> int:
    """Memory behind the memfds that a process has open, each counted once."""
    found: dict[int, int] = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:"):
                stat = os.stat(f"/proc/{pid}/fd/{fd}")
                found[stat.st_ino] = stat.st_blocks * 512
        except FileNotFoundError:
            continue  # closed since it was listed
    return sum(found.values())


def own_bytes(pid: int | str) -> int:
    """A process's anonymous memory."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))


class Peak:
    """The most that a process held while the block ran, in `size_bytes`, looked at a hundred times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.size_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            try:
                held = own_bytes(self._pid) + memfd_bytes(self._pid)
            except (FileNotFoundError, ProcessLookupError, StopIteration):
                return  # it has ended
            self.size_bytes = max(self.size_bytes, held)
            if self._ended.wait(_SAMPLE_S):
                return
