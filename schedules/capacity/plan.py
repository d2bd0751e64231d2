"""The answer to whoever asks for capacity: data that reports, pages and scripts are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schedules.capacity.trial import Trial


@dataclass(frozen=True)
class WhatIf:
    """Another cluster, demand or fate; `sentence` says what would be, `trial` what became of it."""

    name: str
    sentence: str
    trial: Trial


@dataclass(frozen=True)
class Plan:
    """`chosen` is the cheapest trial that attains `attainment`, None if none does: `sentence` says so either way. `binding`
    says what keeps a cheaper cluster from attaining it. The `curve` has, cheapest first, the best at each price that was
    tried, unless something cheaper is clearly better; `tried` is everything. `inputs` are all that was asked, as JSON for
    people, and `notes` what they should know of it, in sentences.

    `settings` are those of firsttoken for the chosen cluster's nodes, by type: section.key to value.
    """

    attainment: float
    currency: str
    sentence: str
    binding: str
    chosen: Trial | None
    curve: tuple[Trial, ...]
    what_ifs: tuple[WhatIf, ...]
    tried: tuple[Trial, ...]
    inputs: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
