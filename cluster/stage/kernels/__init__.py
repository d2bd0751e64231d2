"""Kernels for a decode step on a GPU, where each launch costs about as long as a small operation takes.

Each file has a kernel in Triton, the plain torch formula that it stands for, and what tells whether a module computes that
formula. The files need Triton, which is imported with them: whoever may run without it goes through `build`. A kernel is
compiled when it is run for the first time with new constants, in 0.1 to 2 s unless it is in Triton's cache on the disk.
"""

import importlib.util
import logging
import subprocess
from collections.abc import Callable

_log = logging.getLogger(__name__)


def available() -> bool:
    """Whether the kernels can be imported here. Whether they can be built tells only the first run."""
    return importlib.util.find_spec("triton") is not None


def build(first_run: Callable[[], None]) -> bool:
    """Run kernels for the first time. False, with a line in the log, if that cannot be done here: Triton is missing, or it
    has no compiler, no room for its cache or no way to this GPU."""
    if not available():
        _log.info("kernels are not fused: Triton is not installed")
        return False
    try:
        from triton.errors import TritonError
    except ImportError as error:
        _log.warning("kernels are not fused: %s", error)
        return False
    try:
        first_run()
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError, TritonError) as error:
        _log.warning("kernels are not fused: %s: %s", type(error).__name__, error)
        return False
    return True
