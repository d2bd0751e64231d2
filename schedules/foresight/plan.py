"""What is to be where before it is asked for: a plan of prewarming, as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from schedules.facts import ModelKey
from schedules.foresight.retention import BY_USE, Retention


@dataclass(frozen=True)
class Budgets:
    """What a plan may use: shares (0 to 1) of each node's dram and ssd budgets and of its accelerator, and of the time
    that its links have between now and when it is needed. It moves at most `moved_bytes` over networks, None is as many as
    fit. Nothing is kept in dram that saves less than `least_saved_s` of cold starts per GiB and hour, and no replica on an
    accelerator that saves less than `least_saved_device_s` of them per GiB and hour."""

    dram_share: float
    ssd_share: float
    device_share: float
    link_share: float
    moved_bytes: int | None
    least_saved_s: float
    least_saved_device_s: float

    def __post_init__(self) -> None:
        for name in ("dram_share", "ssd_share", "device_share", "link_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.moved_bytes is not None and self.moved_bytes < 0:
            raise ValueError(f"{self.moved_bytes} bytes cannot be moved")
        if self.least_saved_s < 0.0 or self.least_saved_device_s < 0.0:
            raise ValueError("less than nothing cannot be saved")


@dataclass(frozen=True)
class Staging:
    """Units of a model, in order of use, come to a `tier` ("dram" or "ssd") of a node, `size_bytes` in all, at best before
    `before_s`. `source` is where most of them come from: "remote", "peer" or "ssd". `saved_s` seconds of cold starts are
    expected to be saved by it; `reason` is a sentence for a person."""

    node: str
    key: ModelKey
    units: tuple[str, ...]
    tier: str
    size_bytes: int
    source: str
    before_s: float
    saved_s: float
    reason: str


@dataclass(frozen=True)
class Kept:
    """A model shall have at least so many `replicas`, at work or not, until the plan is over."""

    key: ModelKey
    replicas: int
    saved_s: float
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """A model that the plan does nothing for, and why, in a sentence."""

    model: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Made at `made_s` (unix seconds, or those of a simulation) and good until `until_s`. `stagings` are in the order in
    which they are to begin. What a node keeps in dram and on ssd, while it has more than its budgets, is by `dram` and
    `ssd`, by node. `worth` is what an idle replica of a model saves there where it is, in seconds of cold starts expected:
    the least goes first when others need its room. A model that is not named is worth nothing that anybody knows."""

    made_s: float
    until_s: float
    stagings: tuple[Staging, ...]
    dram: Mapping[str, Retention]
    ssd: Mapping[str, Retention]
    kept: tuple[Kept, ...]
    worth: Mapping[ModelKey, float]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def moved_bytes(self) -> int:
        """What its stagings bring over networks."""
        return sum(staging.size_bytes for staging in self.stagings if staging.source != "ssd")

    def retention(self, node: str) -> tuple[Retention, Retention]:
        """Of the node's dram and its ssd."""
        return self.dram.get(node, BY_USE), self.ssd.get(node, BY_USE)
