"""Lines between stages with a GPU each: opened behind, while bytes travel, and there before the first hidden states are.

NCCL opens a line with the first bytes on it, at both ends at once, and waits for the other end as long as that does not come.
Nothing waits for NCCL here but a thread that nobody waits for.
"""

import threading
import time
from collections.abc import Callable

import torch
from deepspeed import comm

from cluster.errors import StageFailed


class Lines:
    """`open_`, which returns when all lines are open, runs in a thread of its own; RuntimeError if one cannot be opened.

    If it fails, or takes longer than `within_s`, `failed` is told why, once, from another thread.
    """

    def __init__(self, open_: Callable[[], None], within_s: float, failed: Callable[[str], None]) -> None:
        self._failed, self._within_s = failed, within_s
        self._until_s = time.monotonic() + within_s
        self._over = threading.Event()
        self._fault = ""
        threading.Thread(target=self._run, args=(open_,), name="open lines", daemon=True).start()
        threading.Thread(target=self._watch, name="watch lines", daemon=True).start()

    def wait(self) -> None:
        """Until they are open. StageFailed if they cannot be opened, or not in time."""
        if not self._over.wait(max(0.0, self._until_s - time.monotonic())):
            raise StageFailed(self._late())
        if self._fault:
            raise StageFailed(self._fault)

    def _run(self, open_: Callable[[], None]) -> None:
        try:
            open_()
        except RuntimeError as error:
            self._fault = f"the lines to its neighbours cannot be opened: {error}"
        self._over.set()

    def _watch(self) -> None:
        if not self._over.wait(self._within_s):
            self._failed(self._late())
        elif self._fault:
            self._failed(self._fault)

    def _late(self) -> str:
        return f"the lines to its neighbours are not open after {self._within_s:.1f} s"


def open_lines(rank: int, degree: int, device: torch.device) -> None:
    """Open the lines to the stages before and after this one; all stages must do so. RuntimeError if one is gone.

    On a GPU in a stream of its own, so that what is told to others does not wait.
    """
    if device.type == "cpu":
        _exchange(rank, degree, device)
        return
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        _exchange(rank, degree, device)
    stream.synchronize()


def _exchange(rank: int, degree: int, device: torch.device) -> None:
    even = rank % 2 == 0
    for onward in (even, not even):  # every second line at once, then the others
        if onward and rank + 1 < degree:
            comm.isend(torch.zeros(1, device=device), rank + 1).wait()
        elif not onward and rank:
            comm.recv(torch.empty(1, device=device), rank - 1)
