"""Where bytes of a unit may come from: sources in order, until one has them right."""

import itertools
from collections.abc import Callable, Sequence

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Corrupt, Faltering, Missing, StorageError
from storage_tiers.retries import again_after_s
from storage_tiers.tiers.tier import Tier

Pause = Callable[[float], bool]
"""Waits so many seconds; whether to give up."""


class Fallback:
    """Sources are tried in order: the last, the origin, as often as somebody reads; any other until its first failure,
    unless that passes; one may stand at several places. Thread-safe.

    Bytes that do not match their checksum may be a source's fault, or the index is a lie and the source, a cache that others
    use too, was right: who can prove the unit says so with `blame`, and they are discarded there.
    """

    def __init__(self, model: str, unit: UnitIndex, sources: Sequence[Tier]) -> None:
        self._model, self._unit, self._sources = model, unit, sources
        self._failed: set[int] = set()
        self._hoped: set[str] = set()
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

    def read(self, attempt: Callable[[Tier], None]) -> Tier:
        """The source from which `attempt`, which reads and checks, came back without Missing, Corrupt or
        StoreUnavailable, each asked once; the last of these errors if none had it right."""
        failure: StorageError | None = None
        for place, source in enumerate(self._sources):
            near = source.name != self.origin.name
            last = place == len(self._sources) - 1
            if place in self._failed or not (last or source.holds(self._unit)):
                continue
            try:
                attempt(source)
            except StorageError as error:
                failure = error
                if not last and not (near and isinstance(error, Faltering)):
                    self._failed.add(place)
                if near and isinstance(error, Corrupt):
                    self._wrong[place] = source
            else:
                return source
        found = self._last_hope(attempt) if isinstance(failure, Missing) else None
        if found is None:
            raise failure or Missing(f"unit {self._unit.name} of {self._model} is nowhere")
        return found

    def _last_hope(self, attempt: Callable[[Tier], None]) -> Tier | None:
        """The origin has lost the unit. Who is left alone for a fault that may be over is asked all the same, once."""
        for source in self._sources[:-1]:
            if source.name == self.origin.name or source.name in self._hoped:
                continue
            self._hoped.add(source.name)
            try:
                attempt(source)
            except StorageError:
                continue
            return source
        return None

    def read_again_and_again(self, attempt: Callable[[Tier], None], pause: Pause) -> Tier:
        """The same with some patience, for who can wait."""
        for tries in itertools.count(1):
            try:
                return self.read(attempt)
            except StorageError as error:
                after_s = again_after_s(error, tries)
                if after_s is None or pause(after_s):
                    raise
        raise AssertionError("unreachable")
