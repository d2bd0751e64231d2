"""What was asked of a model of late."""

from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 10.0
"""How far back arrivals are counted."""
KEPT = 64
"""So many of them at most are looked at."""
NEWEST_WEIGHT = 0.25
LEFT = 0.5
"""Of the tokens that an answer may still have it is thought to have so many: most end before, and who knows where."""


@dataclass(eq=False)
class Load:
    """Arrivals of the last WINDOW_S, and the running mean of what answers had, in tokens; None before any was over."""

    _arrived_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    answer_tokens: float | None = None

    def arrived(self, now_s: float) -> None:
        """One more."""
        self._arrived_s.append(now_s)

    def answered(self, tokens: int) -> None:
        """A request is over that had so many."""
        if tokens > 0:
            known = self.answer_tokens
            self.answer_tokens = tokens if known is None else known + NEWEST_WEIGHT * (tokens - known)

    def per_s(self, now_s: float) -> float:
        """Arrivals a second, of late; of more than KEPT by how soon they came one after the other."""
        while self._arrived_s and self._arrived_s[0] < now_s - WINDOW_S:
            self._arrived_s.popleft()
        if len(self._arrived_s) == KEPT:
            return KEPT / max(now_s - self._arrived_s[0], 1e-3)
        return len(self._arrived_s) / WINDOW_S
