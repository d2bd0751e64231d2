"""From traces as they were recorded to the one that is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schedules.traces.changing import (
    as_served,
    during,
    merged,
    redrawn,
    renamed,
    round_robin,
    sped,
    spread,
    thinned,
    truncated,
)
from schedules.traces.errors import BadWish
from schedules.traces.lineup import numbered, preset
from schedules.traces.trace import Trace


@dataclass(frozen=True)
class Wishes:
    """What is made of recorded traces, in this order; what is None is left as it is.

    They are put together, at once or `in_turn`. Models are renamed. Then the functions of the trace are mapped to so many
    `models`, or those of a `preset` with its tasks, lengths and targets: in turn, the most called first, or, where there is
    one model or none was recorded, request by request with that `skew`. Of the time what is from `start_s` on for `length_s`
    stays; arrivals are drawn anew with that `cv` in windows; time runs `speed` times as fast; requests are thinned to a
    rate; prompts are cut.
    """

    in_turn: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
    models: int | None = None
    preset: str = ""
    skew: float = 1.0
    start_s: float = 0.0
    length_s: float | None = None
    cv: float | None = None
    window_s: float = 600.0
    speed: float | None = None
    rate_per_s: float | None = None
    max_prompt_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset and self.models is not None:
            raise BadWish("a preset has its own models: ask for it, or for a number of models")
        if not 0 <= self.skew <= 10:
            raise BadWish(f"a skew is from 0 to 10, not {self.skew:g}")


def made_of(traces: Sequence[Trace], wishes: Wishes, *, have_models: bool) -> Trace:
    """The trace that is wanted; `have_models` says whether any models were recorded. BadWish if it cannot be made."""
    trace = merged(traces, in_turn=wishes.in_turn)
    if wishes.rename:
        trace = renamed(trace, wishes.rename)
    trace = _mapped(trace, wishes, have_models)
    if wishes.start_s or wishes.length_s is not None:
        end_s = float("inf") if wishes.length_s is None else wishes.start_s + wishes.length_s
        trace = during(trace, wishes.start_s, end_s)
    if wishes.cv is not None:
        trace = redrawn(trace, wishes.cv, wishes.window_s, wishes.seed)
    if wishes.speed is not None:
        trace = sped(trace, wishes.speed)
    if wishes.rate_per_s is not None:
        trace = thinned(trace, wishes.rate_per_s, wishes.seed)
    if wishes.max_prompt_tokens is not None:
        trace = truncated(trace, wishes.max_prompt_tokens)
    if not len(trace):
        raise BadWish("no request is left in it")
    return trace


def _mapped(trace: Trace, wishes: Wishes, have_models: bool) -> Trace:
    if not wishes.preset and wishes.models is None:
        return trace
    wanted = preset(wishes.preset) if wishes.preset else None
    lineup = wanted.lineup if wanted is not None else numbered(wishes.models or 0)
    names = [served.name for served in lineup]
    several = have_models and len(trace.models) > 1
    mapped = round_robin(trace, names) if several else spread(trace, names, wishes.skew, wishes.seed)
    if wanted is None:
        return mapped
    return truncated(as_served(mapped, lineup, wanted.max_tokens, wishes.seed), wanted.max_prompt_tokens)
