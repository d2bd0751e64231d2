"""Whom a process ends with, and who takes in orphans: what Linux offers for that and Python does not."""

import ctypes
import os
import signal
from pathlib import Path

_SET_PDEATHSIG, _SET_NAME, _SET_CHILD_SUBREAPER = 1, 15, 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """From now on a process somewhere below this one becomes its child when its own parent is dead."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which must be its parent, is dead; also if it is stopped then.

    The kernel looks at the thread of `parent` that forked this process, or at its main thread if this was an orphan.
    """
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def be_called(name: str) -> None:
    """What `ps` shows of this process, up to 15 characters."""
    _prctl(_SET_NAME, name.encode())


def show_as(*command: str) -> None:
    """What `ps` shows of this forked process in place of its parent's command line, of which it has the room."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    shown = "\0".join(command).encode()[: end - start - 1]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def _prctl(what: int, value: int | bytes) -> None:
    if _libc.prctl(what, ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {what}: {os.strerror(ctypes.get_errno())}")
