"""What figures need that may not be on a machine."""

import importlib.util


class Absent(Exception):
    """Something that a figure needs is not on this machine; says what, and how to get it."""


def need(module: str, extra: str = "bench") -> None:
    """Absent if a module is not installed."""
    if importlib.util.find_spec(module) is None:
        raise Absent(f"{module} is not installed: pip install 'firsttoken[{extra}]'")
