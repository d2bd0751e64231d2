"""Processes that compute nothing do without torch: it takes them seconds of a core and hundreds of megabytes."""

import os
import sys


def refuse_torch() -> None:
    """From now on transformers finds no torch here, and says nothing of it; in a process that has imported it, it stays."""
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
