"""Kernels for a decode step on a GPU, where each launch costs about as long as a small operation takes.

Each file has a kernel in Triton, the plain torch formula that it stands for, and what tells whether a module computes that
formula. The files need Triton, which is imported with them: whoever may run without it asks `available` first. A kernel is
compiled when it is run for the first time with new constants, in 0.1 to 2 s unless it is in Triton's cache on the disk.
"""

import importlib.util


def available() -> bool:
    """Whether the kernels can be imported here. Whether they can be built tells only the first run."""
    return importlib.util.find_spec("triton") is not None
