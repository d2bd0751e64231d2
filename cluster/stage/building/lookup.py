"""The first stage's embedding while its unit is not there yet: it works with the rows of the tokens that it is fed."""

import copy
import threading
from collections.abc import Callable, Sequence

import torch
from torch import nn

from cluster.stage.building.gate import Gate, WaitForUnit

AskForRows = Callable[[tuple[int, ...]], None]
"""Called with rows that a forward pass lacks; they may come, in any order and number of parts, or not at all."""
ROWS = "rows of embed"


class Lookup:
    """Stands in for the forward of an embedding's module until its unit's `gate` opens, then steps aside for good.

    What the module does to the rows it has looked up (some families scale them) is still its own code, run on a copy
    of it whose matrix is just the rows of this step. `take`, `finish` and `fail` are called from another thread.
    """

    def __init__(self, module: nn.Module, gate: Gate, wait: WaitForUnit, ask: AskForRows) -> None:
        self._module, self._gate, self._wait, self._ask = module, gate, wait, ask
        self._width, self._dtype = module.weight.shape[1], module.weight.dtype
        self._lock = threading.Lock()
        self._rows: dict[int, torch.Tensor] = {}
        self._lacking: set[int] = set()
        self._arrival = Gate()
        self._cause: str | None = None
        module.forward = self._forward

    def take(self, rows: Sequence[int], data: bytes) -> None:
        """Rows have come: their bytes one after the other. RuntimeError if there are more or fewer."""
        if not rows:
            return
        matrix = torch.frombuffer(bytearray(data), dtype=self._dtype).view(len(rows), self._width)
        with self._lock:
            if self._gate.is_open:
                return
            self._rows |= dict(zip(rows, matrix, strict=True))
            self._lacking -= set(rows)
            if not self._lacking:
                self._arrival.open()

    def finish(self) -> None:
        """The gate is open: no row is needed any more."""
        with self._lock:
            self._rows.clear()
            self._arrival.open()

    def fail(self, cause: str) -> None:
        """Nothing more will come."""
        with self._lock:
            self._cause = cause
            self._arrival.fail(cause)

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        wanted, places = torch.unique(tokens, return_inverse=True)
        matrix = None if self._gate.is_open else self._matrix(wanted.tolist())
        if matrix is None:
            vars(self._module).pop("forward", None)
            return self._module.forward(tokens)
        small = copy.copy(self._module)
        small._parameters = {"weight": nn.Parameter(matrix.to(tokens.device), requires_grad=False)}
        small.padding_idx = None  # a row of the whole matrix; it matters in training only
        return type(self._module).forward(small, places)

    def _matrix(self, wanted: list[int]) -> torch.Tensor | None:
        """The rows, in order, once they are there; None if the whole unit is there before."""
        with self._lock:
            lacking = tuple(row for row in wanted if row not in self._rows)
            self._lacking, self._arrival = set(lacking), Gate()
            if self._cause is not None:
                self._arrival.fail(self._cause)
            elif not lacking or self._gate.is_open:
                self._arrival.open()
            arrival = self._arrival
        if not arrival.is_open:
            self._ask(lacking)
            self._wait(ROWS, arrival)
        with self._lock:
            return None if self._gate.is_open else torch.stack([self._rows[row] for row in wanted])
