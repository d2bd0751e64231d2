"""What a cold start would take, by where the units of its stages lie."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from schedules.estimates import Speeds, StageTimeline, first_token_s, step_s, there_s
from schedules.facts import Model
from schedules.placing.partition import Part, as_met, parts_of
from schedules.rates import PREFILL_TOKENS

HIDDEN_SHARE = 0.8
"""Of what comes while a group is formed nobody waits for so much: others are on the links too."""
Tiers = tuple[str, ...]
"""Of a part's units, in order of use."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A model as its starts are estimated: the same for all of equal sizes."""

    model: Model
    kv_tokens: int
    same: Hashable


@dataclass
class Starts:
    """Each start is estimated once. The nodes share `store_bytes_per_s`, if that was seen to limit them."""

    gpus: bool
    store_bytes_per_s: float | None
    _shapes: dict[Hashable, Shape] = field(default_factory=dict)
    _parts: dict[tuple[int, int], tuple[Part, ...]] = field(default_factory=dict)
    _seconds: dict[Hashable, float] = field(default_factory=dict)

    def shape(self, model: Model, kv_tokens: int) -> Shape:
        """One for all models that are alike."""
        kv_bytes = model.kv_bytes_per_token * kv_tokens
        same = model.sizes, model.tied_embeddings, model.rows_first, kv_bytes, model.widths
        known = self._shapes.get(same)
        if known is None:
            known = self._shapes[same] = Shape(model, kv_tokens, same)
        return known

    def parts(self, shape: Shape, degree: int) -> tuple[Part, ...]:
        """What each of so many stages has."""
        known = self._parts.get((id(shape), degree))
        if known is None:
            known = parts_of(shape.model, degree, shape.kv_tokens, gpus=self.gpus)
            self._parts[id(shape), degree] = known
        return known

    def nic_bytes_per_s(self, speeds: Speeds, degree: int) -> float:
        """Of one of so many stages that fetch at once."""
        if self.store_bytes_per_s is None:
            return speeds.nic_bytes_per_s
        return min(speeds.nic_bytes_per_s, self.store_bytes_per_s / degree)

    def seconds(self, shape: Shape, speeds: Sequence[Speeds], tiers: Sequence[Tiers]) -> float:
        """From the decision to the first token, with one stage for each of them, alone on all links."""
        key = id(shape), tuple([id(each) for each in speeds]), tuple(tiers)
        known = self._seconds.get(key)
        if known is None:
            known = self._seconds[key] = self._found(shape, speeds, tiers)
        return known

    def _found(self, shape: Shape, speeds: Sequence[Speeds], tiers: Sequence[Tiers]) -> float:
        model, degree, lines = shape.model, len(speeds), list[StageTimeline]()
        for part, each, lie in zip(self.parts(shape, degree), speeds, tiers, strict=True):
            sizes, embedding, first = [model.sizes[unit] for unit in part.units], None, lie
            if 0 in part.units:
                embedding = part.units.index(0)
                if part.later:
                    first = (*lie[:embedding], "dram", *lie[embedding + 1 :])
            come_s = there_s(each, self.nic_bytes_per_s(each, degree), sizes, first)
            in_order = as_met(model, part, sizes, embedding, come_s, each.reach_s)
            lines.append(StageTimeline(each, each.formed(degree), in_order))
        return first_token_s(lines, PREFILL_TOKENS)

    def computing_s(self, shape: Shape, speeds: Speeds) -> float:
        """Of a first token that finds a replica."""
        return step_s(shape.model.size_bytes, PREFILL_TOKENS, speeds)

    def needed(self, shape: Shape, part: Part, speeds: Speeds, degree: int, lie: Tiers) -> int:
        """How many of the part's units, the first in order of use, have to be in dram for its start to wait for none: what
        comes last may come while the group is formed, each from where it lies if it is not in dram."""
        spare_s = HIDDEN_SHARE * speeds.formed(degree)
        far_bytes = spare_s * self.nic_bytes_per_s(speeds, degree)
        near_bytes = spare_s * speeds.ssd_bytes_per_s
        sizes = shape.model.sizes
        for place in range(len(part.units) - 1, -1, -1):
            unit = part.units[place]
            if unit in part.later:
                continue
            if lie[place] == "ssd":
                near_bytes -= sizes[unit]
            else:
                far_bytes -= sizes[unit]
            if far_bytes < 0.0 or near_bytes < 0.0:
                return place + 1
        return 0
