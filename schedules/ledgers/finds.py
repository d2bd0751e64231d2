"""What was found of where the units of models lie, kept for as long as they lie there."""

from collections.abc import Iterable
from typing import Any

MOST_KEPT = 2048


class Finds:
    """One find for each model, by the digests of its units. Whoever hears that something became of units says so."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], Any] = {}
        self._with: dict[str, tuple[tuple[str, ...], ...]] = {}

    def get(self, digests: tuple[str, ...]) -> Any | None:
        """What was kept of the model with these units, if that is good still."""
        return self._found.get(digests)

    def keep(self, digests: tuple[str, ...], find: object) -> None:
        """It is good until one of the units is forgotten."""
        if len(self._found) >= MOST_KEPT:
            self.clear()
        self._found[digests] = find
        alone = (digests,)
        for digest in set(digests):
            others = self._with.setdefault(digest, alone)
            if others is not alone:
                self._with[digest] = (*others, digests)

    def forget(self, digests: Iterable[str]) -> None:
        """These units are others' now, or elsewhere."""
        if self._with:
            for digest in digests:
                for model in self._with.get(digest, ()):
                    self._drop(model)

    def clear(self) -> None:
        """All that is known of nodes may be other."""
        self._found.clear()
        self._with.clear()

    def _drop(self, model: tuple[str, ...]) -> None:
        del self._found[model]
        for digest in set(model):
            left = tuple([other for other in self._with[digest] if other is not model])
            if left:
                self._with[digest] = left
            else:
                del self._with[digest]
