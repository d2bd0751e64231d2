"""Whether a pipeline should become whole replicas: what it costs its requests to stay one, against what it takes to end it.

Both are seconds. A pipeline gives each token later than a whole replica would, by its hops and by whatever its stages wait
for; and it has memory that a whole one has not. To consolidate takes links and cores, behind everything that somebody waits
for, and a moment of every request.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schedules.estimates import Speeds, step_s, token_s
from schedules.facts import Placement

BEHIND = 0.02
"""A second of a link, of cores or of memory that nobody waits for counts for so much of one that somebody does."""
LONGEST_S = 600.0
"""No further ahead is anything expected."""


@dataclass(frozen=True)
class Outlook:
    """Tokens that the pipeline's requests, and those that are expected while it is kept, will still have; for how long it
    will be there; and how many requests run."""

    tokens: float
    kept_s: float
    requests: int


def pipeline_s(stages: Sequence[tuple[int, Speeds]], hop_s: float, seen_s: float | None) -> float:
    """What a token takes in the pipeline; `seen_s` is what one took of late."""
    return max(token_s(stages, hop_s), seen_s or 0.0)


def penalty_s(takes_s: float, size_bytes: int, whole: Speeds) -> float:
    """By how much each token is later for coming out of a pipeline, where it takes `takes_s`."""
    return takes_s - step_s(size_bytes, 1, whole)


def pays(
    outlook: Outlook, later_s: float, pipeline: Placement, whole: Placement, ready_s: float, shift_s: float
) -> str:
    """Why it pays to have the whole replica instead of the pipeline; empty if it does not. It is there after `ready_s`, and
    each request that goes over takes `shift_s`."""
    if outlook.kept_s <= ready_s:
        return ""
    share = 1.0 - ready_s / outlook.kept_s
    waited_s = max(0.0, later_s) * outlook.tokens * share
    more_bytes = sum(pipeline.reserved_bytes.values()) - sum(whole.reserved_bytes.values())
    memory_s = max(0, more_bytes) / max(1, sum(whole.reserved_bytes.values())) * outlook.kept_s * share
    cost_s = BEHIND * ready_s + shift_s * outlook.requests
    if waited_s + BEHIND * memory_s <= cost_s:
        return ""
    return (
        f"a pipeline of {pipeline.degree} gives each token {later_s * 1e3:.1f} ms later: {waited_s:.2f} s over the "
        f"{outlook.tokens:.0f} that are expected, against {cost_s:.2f} s to consolidate"
    )
