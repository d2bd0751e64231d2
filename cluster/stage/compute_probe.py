"""How fast this machine multiplies with weights, from a few products: a first guess, until real steps were measured."""

import time
from collections.abc import Callable

import torch

from schedules.rates import DECODE, PREFILL

_ROWS = 4096
_WEIGHT_BYTES = 2 * _ROWS * _ROWS
_PREFILL_ROWS = 64
_ENOUGH_S = 0.045


def measure_products(device: torch.device) -> dict[str, float]:
    """DECODE and PREFILL as the products of one row and of many with a bfloat16 matrix of 32 MiB give them.

    Ends with the product after which 45 ms have passed.
    """
    until_s = time.perf_counter() + _ENOUGH_S
    with torch.inference_mode():
        weights = torch.full((_ROWS, _ROWS), 0.01, dtype=torch.bfloat16, device=device)
        found = {}
        for name, rows, at_most_s in ((DECODE, 1, _ENOUGH_S / 2), (PREFILL, _PREFILL_ROWS, _ENOUGH_S)):
            x = torch.full((rows, _ROWS), 0.01, dtype=torch.bfloat16, device=device)
            deadline_s = until_s - _ENOUGH_S + at_most_s
            found[name] = rows * _WEIGHT_BYTES / _best_s(lambda x=x: x @ weights, device, deadline_s)  # type: ignore[misc]
    return found


def _best_s(product: Callable[[], torch.Tensor], device: torch.device, deadline_s: float) -> float:
    """Seconds of the quickest of up to four products; the first, which prepares the others, counts only if it is alone."""
    took: list[float] = []
    for _ in range(4):
        since_s = time.perf_counter()
        product()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - since_s)
        if time.perf_counter() > deadline_s:
            break
    return min(took[1:] or took)
