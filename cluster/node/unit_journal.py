"""What became of a node's units, version by version, so that a report need say no more than what its reader has missed."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

KEPT_VERSIONS = 64


@dataclass(frozen=True)
class Change:
    """Between two versions, the units that are there since, by digest with their tier, and those that are not any more.

    From `base` 0, at which there was none, `gained` is all that there are.
    """

    base: int
    version: int
    gained: Mapping[str, str]
    lost: tuple[str, ...]


class UnitJournal:
    """`version` grows with each change."""

    def __init__(self) -> None:
        self.version = 0
        self._units: Mapping[str, str] = {}
        self._touched: deque[frozenset[str]] = deque(maxlen=KEPT_VERSIONS)

    def note(self, units: Mapping[str, str]) -> None:
        """These are the units now."""
        before = self._units
        if units == before:
            return
        changed = {digest for digest, tier in units.items() if before.get(digest) != tier}
        self._touched.append(frozenset(changed | (before.keys() - units.keys())))
        self._units, self.version = units, self.version + 1

    def since(self, version: int) -> Change:
        """What who has heard of `version` has not heard; all there is if that is too long ago, or never was."""
        behind = self.version - version
        if not (0 <= behind <= len(self._touched)) or not version:
            return Change(0, self.version, dict(self._units), ())
        touched = frozenset[str]().union(*list(self._touched)[len(self._touched) - behind :])
        gained = {digest: self._units[digest] for digest in touched if digest in self._units}
        return Change(version, self.version, gained, tuple(sorted(touched - gained.keys())))
