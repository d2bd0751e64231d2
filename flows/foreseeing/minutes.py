"""What the front end's history says of the past, as forecasts look at it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from flows.errors import Unintelligible
from schedules.foresight.past import NEVER_S, Past, minutes_between


@dataclass(frozen=True)
class Came:
    """How many requests came for a model, and of these the refused, the failed and those that waited for a start; of the
    `answered` the mean time to the first token and the longest, None if there are none."""

    arrived: int = 0
    refused: int = 0
    failed: int = 0
    cold: int = 0
    answered: int = 0
    ttft_s: float | None = None
    ttft_most_s: float | None = None


@dataclass(frozen=True)
class Heard:
    """The past, and what came in all of it, by model; who is not named had nothing."""

    past: Past
    came: Mapping[str, Came]

    def only(self, models: Sequence[str]) -> Self:
        """Of these models, in their order; nothing came for those that it does not know."""
        if tuple(models) == self.past.models:
            return self
        rows = {name: row for row, name in enumerate(self.past.models)}
        counts = np.zeros((len(models), self.past.minutes), np.int32)
        last_s = np.full(len(models), NEVER_S)
        for row, name in enumerate(models):
            if name in rows:
                counts[row], last_s[row] = self.past.counts[rows[name]], self.past.last_s[rows[name]]
        past = Past(tuple(models), counts, self.past.begin_s, self.past.until_s, last_s)
        return type(self)(past, {name: self.came[name] for name in models if name in self.came})


_OF_MODEL = tuple(field.name for field in fields(Came))


def read_minutes(told: Mapping[str, Any], models: Sequence[str] = ()) -> Heard:
    """What /admin/minutes told: of `models`, in their order, also where nothing came; of all that are told, if none are
    named. Unintelligible if it is something else."""
    try:
        begin_s, until_s, by_name = float(told["begin"]), float(told["until"]), told["models"]
        names = tuple(by_name)
        counts = np.zeros((len(names), minutes_between(begin_s, until_s)), np.int32)
        for row, name in enumerate(names):
            minutes = np.asarray(by_name[name]["minutes"], np.int64).reshape(-1, 2)
            if len(minutes) and not 0 <= minutes[:, 0].min() <= minutes[:, 0].max() < counts.shape[1]:
                raise ValueError(f"something came for {name} outside of the time")
            np.add.at(counts[row], minutes[:, 0], minutes[:, 1])
        last_s = np.array([float(by_name[name]["last"]) for name in names])
        came = {name: Came(**{key: by_name[name][key] for key in _OF_MODEL}) for name in names}
        heard = Heard(Past(names, counts, begin_s, until_s, last_s), came)
        return heard.only(models) if models else heard
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unintelligible(f"the front end says what are no minutes: {error!r}") from error
