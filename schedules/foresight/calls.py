"""The minutes in which a model was called at all: what most methods look at, much less than all minutes."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calls:
    """`count[i]` requests came for the model `row[i]` of `models` in the minute `minute[i]`, model by model, in the order of
    time. Gaps are from a minute with calls to the next one of the same model, so at least 1."""

    models: int
    row: Places
    minute: Places
    count: Places

    def before(self, minute: int) -> Self:
        """Those of earlier minutes."""
        kept = self.minute < minute
        return type(self)(self.models, self.row[kept], self.minute[kept], self.count[kept])

    @property
    def begins(self) -> Places:
        """Where each model's own begin, and where the last one's end."""
        return np.searchsorted(self.row, np.arange(self.models + 1))

    @property
    def latest(self) -> Places:
        """The last minute with calls, by model; -1 if there was none."""
        return self._at(self.begins[1:] - 1)

    @property
    def earliest(self) -> Places:
        """The first minute with calls, by model; -1 if there was none."""
        return self._at(self.begins[:-1])

    @property
    def gaps(self) -> tuple[Places, Places]:
        """Of which model, and how many minutes: all gaps."""
        same = self.row[1:] == self.row[:-1]
        return self.row[1:][same], np.diff(self.minute)[same]

    def per_model(self, weights: NDArray[Any] | None = None) -> Reals:
        """Sums of the weights, or numbers of minutes with calls, by model."""
        return np.bincount(self.row, weights, self.models).astype(np.float64)

    def _at(self, places: Places) -> Places:
        begins = self.begins
        some = begins[1:] > begins[:-1]
        found = np.full(self.models, -1)
        found[some] = self.minute[places[some]]
        return found


def calls_in(counts: NDArray[np.int32]) -> Calls:
    """Of the requests of models (rows) in minutes (columns)."""
    row, minute = np.nonzero(counts)
    return Calls(counts.shape[0], row, minute, counts[row, minute].astype(np.int64))
