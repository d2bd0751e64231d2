"""A stage's sign of life: beats to the agent while the process runs, and an alarm when a computation stands still.

A process that is stopped or dead sends no beat; the agent notices. A computation that is stuck inside one layer while
the process lives is noticed here, by how long the layers took before. A GPU is told of a whole step in no time: whether it
stands still is noticed by how long it took for steps before.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.stage.pace import Pace

BEAT_EVERY_S = 0.3
SILENT_S = 1.5
"""Without a beat for so long a stage counts as hung."""
_STUCK_S = 5.0
"""No computation counts as stuck before."""
_PATIENCE = 20.0
"""How many times the longest time per token seen so far a layer may take, or a GPU for a step that of the longest seen so
far, before it counts as stuck."""


class Pulse:
    """Call `step`, `layer` and `rest` from the thread that computes; `beat` and `stuck` are called from another, which ends
    with `stuck`."""

    def __init__(self, beat: Callable[[], None], stuck: Callable[[str], None], first_s: float, pace: "Pace") -> None:
        self._beat, self._stuck, self._first_s, self._pace = beat, stuck, first_s, pace
        self._tokens = 0
        self._since_s: float | None = None
        self._slowest_s = 0.0
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def step(self, tokens: int) -> None:
        """The layers begin to compute `tokens`."""
        self._tokens = tokens
        self._since_s = time.monotonic()
        self._pace.begin(tokens)

    def layer(self) -> None:
        """A layer begins, and with it the one before is over."""
        since_s, now_s = self._since_s, time.monotonic()
        if since_s is not None:
            self._slowest_s = max(self._slowest_s, (now_s - since_s) / self._tokens)
            self._since_s = now_s

    def rest(self) -> None:
        """What follows waits for others, or is over."""
        self._since_s = None
        self._pace.end()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within a step, for something that has a deadline of its own."""
        self._since_s, waits_s = None, time.monotonic()
        yield
        self._since_s = time.monotonic()
        self._pace.wait(self._since_s - waits_s)

    def allowed_s(self, tokens: int) -> float:
        """How long a layer may take with so many tokens."""
        return max(_STUCK_S, _PATIENCE * self._slowest_s * tokens) if self._slowest_s else self._first_s

    def gpu_allowed_s(self, tokens: int) -> float:
        """How long a GPU may take for a step of so many tokens; for more of them than the longest step had, in proportion."""
        if self._pace.longest is None:
            return self._first_s
        seconds, of_tokens = self._pace.longest
        return max(_STUCK_S, _PATIENCE * seconds * max(1.0, tokens / of_tokens))

    def fault(self, now_s: float) -> str | None:
        """What stands still, if anything does. To be asked often, from one thread."""
        since_s = self._since_s
        if since_s is not None and (busy_s := now_s - since_s) > self.allowed_s(self._tokens):
            return f"its computation stands still for {busy_s:.1f} s"
        standing = self._pace.standing(now_s)
        if standing is None:
            return None
        if standing.begun and standing.seconds > self.gpu_allowed_s(standing.tokens):
            return f"its GPU stands still within a step for {standing.seconds:.1f} s"
        if not standing.begun and standing.seconds > self._first_s:
            return f"its GPU has not come to a step for {standing.seconds:.1f} s: what it was told before is not over"
        return None

    def _run(self) -> None:
        while True:
            try:
                self._beat()
                fault = self.fault(time.monotonic())
            except RuntimeError as error:
                fault = f"its GPU failed: {error}"
            if fault is not None:
                self._stuck(fault)
                return
            time.sleep(BEAT_EVERY_S)
