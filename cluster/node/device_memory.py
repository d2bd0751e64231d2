"""Of the memory of what a node computes on: what its waiting processes take, and what is left for stages to reserve.

On a GPU every process has a context, which no other can use: those that wait stand beside all reservations, that of a stage
is part of its own. On a CPU a reservation is an account, and a process takes nothing of it.
"""

from schedules.rates import Measured

ASSUMED_CONTEXT_BYTES = 1 << 30
"""Of a context that nothing has told of yet, or that cannot be measured here: more than those that were seen take."""
_BLOCK_BYTES = 2 << 20


class DeviceMemory:
    """`budget_bytes` of a device of `kind` "cpu" or "cuda", of which `waiting` processes and all stages have theirs."""

    def __init__(self, kind: str, budget_bytes: int, waiting: int) -> None:
        self._on_gpu, self._budget_bytes, self._waiting = kind == "cuda", budget_bytes, max(waiting, 1)
        self._told: Measured | None = None

    @property
    def context_bytes(self) -> int:
        """What a process has there before it does anything for a stage: in the middle of what the latest have told."""
        if not self._on_gpu:
            return 0
        if self._told is None:
            return ASSUMED_CONTEXT_BYTES
        return -(-int(self._told.typical) // _BLOCK_BYTES) * _BLOCK_BYTES

    @property
    def offered_bytes(self) -> int:
        """What stages may reserve in all."""
        return max(0, self._budget_bytes - self._waiting * self.context_bytes)

    def hear(self, context_bytes: int) -> bool:
        """A process that is ready now has taken so much; 0 if it cannot tell. Whether something else is offered now."""
        before = self.offered_bytes
        if context_bytes > 0:
            told = float(context_bytes)
            self._told = Measured((told,)) if self._told is None else self._told.with_sample(told)
        return self.offered_bytes != before
