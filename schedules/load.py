"""What was asked of a model of late: of answers, and apart from them of vectors."""

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
    """Arrivals of the last WINDOW_S, and the running mean of the tokens that answers had, or that were embedded; None before
    any was over."""

    _arrived: deque[tuple[float, int]] = field(default_factory=deque)
    _counted: int = 0
    mean_tokens: float | None = None

    def arrived(self, now_s: float, *, more: bool = False) -> None:
        """One more; with `more` it came with the last one, and says nothing of how soon another comes."""
        self._counted += 1
        if more and self._arrived:
            at_s, count = self._arrived.pop()
            self._arrived.append((at_s, count + 1))
            return
        self._arrived.append((now_s, 1))
        if len(self._arrived) > KEPT:
            self._forget_oldest()

    def over(self, tokens: int) -> None:
        """A request is over that had so many."""
        if tokens > 0:
            known = self.mean_tokens
            self.mean_tokens = tokens if known is None else known + NEWEST_WEIGHT * (tokens - known)

    def per_s(self, now_s: float) -> float:
        """Arrivals a second, of late; where more than KEPT times somebody came, by how soon they came one after the other."""
        while self._arrived and self._arrived[0][0] < now_s - WINDOW_S:
            self._forget_oldest()
        if len(self._arrived) == KEPT:
            return self._counted / max(now_s - self._arrived[0][0], 1e-3)
        return self._counted / WINDOW_S

    def _forget_oldest(self) -> None:
        self._counted -= self._arrived.popleft()[1]
