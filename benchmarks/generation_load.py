"""A busy process: what a machine has to do beside the one that is measured."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_LOOP = "print(flush=True)\nwhile True: pass"


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """One that computes without a pause, on whatever core it is given, until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", _LOOP], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it has begun
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
