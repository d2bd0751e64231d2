"""What captures steps on a GPU, played on a CPU: a replay computes again, into the memory of the first time."""

from collections.abc import Callable

import torch

from cluster.stage.stepping.static_steps import Compute, Staging


class _Staging:
    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers = numbers

    def send(self, fill: Callable[[torch.Tensor], None]) -> None:
        """A buffer that has something else in it."""
        buffer = torch.full_like(self._numbers, -7)
        fill(buffer)
        self._numbers.copy_(buffer)


class PlayedCaptures:
    """Remembers how often was captured and replayed. With `refuses` nothing can be captured.

    Like a graph, a replay is the same sequence of operations whatever its caller has changed since in Python.
    """

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.captures = self.replays = self.forgotten = 0

    def capture(self, compute: Compute) -> Compute:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        kept: list[torch.Tensor] = []

        def replay() -> torch.Tensor:
            self.replays += 1
            result = compute()
            if not kept:
                kept.append(result.clone())
            return kept[0].copy_(result)

        return replay

    def forget(self) -> None:
        self.forgotten += 1

    def staging(self, numbers: torch.Tensor) -> Staging:
        return _Staging(numbers)
