"""The shape that each kind of request is answered in."""

from collections.abc import Callable, Mapping

from serving.answering.responses import ResponseShape
from serving.answering.shapes import CHOICES, Shape

SHAPES: Mapping[str, Callable[[], Shape]] = {**CHOICES, "response": ResponseShape}
"""By the kind of a request."""
