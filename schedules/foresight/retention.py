"""What to keep in a tier: which units are worth more than others there."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    """`worth` of keeping a unit, by its digest: expected seconds of cold starts saved per byte. A unit that is not named is
    worth `otherwise`. The least goes first; of equals, what was used longest ago."""

    worth: Mapping[str, float]
    otherwise: float = 0.0

    def of(self, digest: str) -> float:
        """What the unit is worth."""
        return self.worth.get(digest, self.otherwise)

    def rank(self, digest: str, last_used: int) -> tuple[float, int]:
        """To be sorted by; a larger `last_used` is later."""
        return self.of(digest), last_used


BY_USE = Retention({})
"""What was used longest ago goes first."""
