"""Imports that take seconds: what they make stays, and Python looks for garbage in it all the same, a fifth of the time."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """In the block nothing looks for garbage, in any thread of this process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
