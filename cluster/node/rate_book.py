"""What a node has measured of itself, kept over a restart."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from schedules.facts import Rate
from schedules.rates import STORE, Measured, as_rate, observe

_log = logging.getLogger(__name__)
FILE = "rates.json"
SAVE_EVERY_S = 10.0
_FORMAT = 1


class RateBook:
    """Measured quantities by the names of schedules.rates, in a file in `folder`. Use from one thread but for `write`.

    A file that is not there or not whole counts as nothing measured.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._measured: dict[str, Measured] = {}
        self._makeshift: set[str] = set()
        self._store: float | None = None
        self._changed = self._failed = False
        self._read()

    def __contains__(self, name: str) -> bool:
        return name in self._measured

    def observe(self, name: str, value: float) -> None:
        """One more sample; what cannot be a measurement (zero, negative) is left out."""
        if name in self._makeshift and value > 0:
            self._makeshift.discard(name)
            del self._measured[name]
        self._measured = observe(self._measured, name, value)
        self._changed = True

    def observe_makeshift(self, name: str, value: float) -> None:
        """A sample that was held up by other things: better than none, until there is one that was not."""
        if name not in self._measured:
            self.observe(name, value)
            if name in self._measured:
                self._makeshift.add(name)

    def observe_all(self, name: str, values: Iterable[float]) -> None:
        """More samples of one quantity, oldest first."""
        for value in values:
            self.observe(name, value)

    def limit_store(self, bytes_per_s: float | None) -> None:
        """What the store gives to all nodes together, None if it was not seen to limit them."""
        self._store = bytes_per_s if bytes_per_s is None or bytes_per_s > 0 else None
        self._changed = True

    def rates(self) -> dict[str, Rate]:
        """All that is known, as the node reports it."""
        known = {name: as_rate(name, self._measured[name]) for name in sorted(self._measured)}
        return known if self._store is None else {**known, STORE: Rate(self._store, self._store, 1)}

    def changes(self) -> str | None:
        """What is to be written since the last call; None if nothing is."""
        if not self._changed:
            return None
        self._changed = False
        samples = {name: measured.samples for name, measured in self._measured.items()}
        return json.dumps({"format": _FORMAT, "samples": samples, "store": self._store})

    def write(self, text: str) -> None:
        """Replace the file at once; where that cannot be, what was measured is lost at the node's end."""
        partial = self._path.with_suffix(".json.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, self._path)
        except OSError as error:
            if not self._failed:
                _log.warning("%s cannot be written, rates are forgotten at the end: %s", self._path, error.strerror)
            self._failed = True

    def _read(self) -> None:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["format"] == _FORMAT:
                self._measured = _measured(kept["samples"])
                self._store = None if kept["store"] is None else float(kept["store"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is not read, rates are measured anew: %s", self._path, error)


def _measured(samples: Mapping[str, Iterable[float]]) -> dict[str, Measured]:
    return {str(name): Measured(tuple(float(value) for value in values)) for name, values in samples.items()}
