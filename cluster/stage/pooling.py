"""Vectors of whole requests, made of what the model's layers and final norm give of their tokens, piece by piece."""

from collections.abc import Sequence

import torch

from cluster.stage.steps import Segment


class Pools:
    """The requests of the last stage that are to give a vector. Sums are in float32, whatever the model computes in."""

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}

    def take(self, segments: Sequence[Segment], hidden: torch.Tensor) -> list[torch.Tensor]:
        """Take in a step, its hidden states (1, T, width); the vectors (width,) of those that it completes, in order."""
        found, at = [], 0
        for segment in segments:
            rows = hidden[0, at : at + segment.tokens]
            at += segment.tokens
            if segment.pooling == "mean":
                total = rows.sum(0, dtype=torch.float32)
                before = self._sums.pop(segment.slot, None)
                total = total if before is None else before + total
                if segment.pooled:
                    found.append(total / segment.whole)
                else:
                    self._sums[segment.slot] = total
            elif segment.pooled:
                found.append(rows[-1].float())
        return found

    def forget(self, slot: int) -> None:
        """The request is over."""
        self._sums.pop(slot, None)


def vector_bytes(vector: torch.Tensor) -> bytes | None:
    """A vector as it goes to the front end: float32, little-endian. None if it has what is no finite number."""
    values = vector.cpu().numpy()
    return values.astype("<f4").tobytes() if bool(torch.isfinite(vector).all()) else None
