"""A vector as its client gets it."""

import base64
import json

import numpy as np

from serving.errors import BadRequest


def finished(vector: bytes, dimensions: int | None, normalized: bool) -> bytes:
    """Float32 as it came from the model, cut and then given the length 1, as far as that is wanted. BadRequest if it is
    shorter than it shall be."""
    values = np.frombuffer(vector, "<f4")
    if dimensions is not None:
        if dimensions > len(values):
            raise BadRequest(f"the model's vectors have {len(values)} dimensions, not {dimensions}", "dimensions")
        values = values[:dimensions]
    if normalized:
        length = float(np.linalg.norm(values.astype(np.float64)))
        values = (values / length if length > 0.0 else values).astype("<f4")
    return values.tobytes()


def written(vector: bytes, encoding: str) -> str:
    """As JSON: a list of numbers, or the bytes in base64."""
    if encoding == "base64":
        return f'"{base64.b64encode(vector).decode()}"'
    return json.dumps(np.frombuffer(vector, "<f4").tolist(), separators=(",", ":"))
