"""Where bytes of a unit may come from: sources in order, until one has them right."""

from collections.abc import Callable, Sequence

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Corrupt, Missing, StorageError, StoreUnavailable
from storage_tiers.tiers.tier import Tier

ATTEMPTS = 4
FIRST_BACKOFF_S = 0.05

Pause = Callable[[float], bool]
"""Waits so many seconds; whether to give up."""


class Fallback:
    """Sources are tried in order: the last, the origin, several times with growing pauses; any other until its first
    failure; one may stand at several places. Thread-safe.

    Bytes that do not match their checksum may be a source's fault, or the index is a lie and the source, a cache that others
    use too, was right: who can prove the unit says so with `blame`, and they are discarded there.
    """

    def __init__(self, model: str, unit: UnitIndex, sources: Sequence[Tier]) -> None:
        self._model, self._unit, self._sources = model, unit, sources
        self._failed: set[int] = set()
        self._wrong: dict[int, Tier] = {}

    @property
    def origin(self) -> Tier:
        """The source of last resort. What it gives nobody has proven."""
        return self._sources[-1]

    @property
    def doubted(self) -> bool:
        """Whether a source had bytes that do not match."""
        return bool(self._wrong)

    def blame(self) -> None:
        """The unit is proven: those whose bytes did not match have a bad copy."""
        for source in self._wrong.values():
            source.discard(self._unit)

    def first(self) -> Tier:
        """The source that would be tried first now."""
        for place, source in enumerate(self._sources[:-1]):
            if place not in self._failed and source.holds(self._unit):
                return source
        return self._sources[-1]

    def read(self, attempt: Callable[[Tier], None], pause: Pause) -> Tier:
        """The source from which `attempt`, which reads and checks, came back without Missing, Corrupt or
        StoreUnavailable; the last of these errors if none had it right."""
        failure: StorageError | None = None
        for place, source in enumerate(self._sources):
            origin = place == len(self._sources) - 1
            if place in self._failed or not (origin or source.holds(self._unit)):
                continue
            try:
                _try(source, attempt, ATTEMPTS if origin else 1, pause)
            except StorageError as error:
                failure = error
                if not origin:
                    self._failed.add(place)
                if isinstance(error, Corrupt) and source.name != self.origin.name:
                    self._wrong[place] = source
            else:
                return source
        raise failure or Missing(f"unit {self._unit.name} of {self._model} is nowhere")


def _try(source: Tier, attempt: Callable[[Tier], None], attempts: int, pause: Pause) -> None:
    backoff_s = FIRST_BACKOFF_S
    for number in range(1, attempts + 1):
        try:
            attempt(source)
        except (Corrupt, StoreUnavailable):
            if number == attempts or pause(backoff_s):
                raise
            backoff_s *= 2
        else:
            return
