"""How an answer calls tools, and which."""

from dataclasses import dataclass

from serving.structure.formats import CallFormat
from serving.structure.wanted import Tool


@dataclass(frozen=True)
class Calling:
    """Calls of these tools as `form` has them; with `only` nothing else may be said."""

    form: CallFormat
    tools: tuple[Tool, ...]
    only: bool = False
