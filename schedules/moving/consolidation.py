"""Whether a pipeline should become whole replicas: what it costs its requests to stay one, against what it takes to end it.

Both are seconds. A pipeline gives each token, and each vector, later than a whole replica would, by its hops and by whatever
its stages wait for; and it has memory that a whole one has not. To consolidate takes links and cores, behind everything that
somebody waits for, and a moment of every request that goes over, which those that want a vector do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schedules.estimates import Speeds, step_s, token_s
from schedules.facts import Placement

BEHIND = 0.02
"""A second of a link, of cores or of memory that nobody waits for counts for so much of one that somebody does."""
LONGEST_S = 600.0
"""No further ahead is anything expected."""


@dataclass(frozen=True)
class Outlook:
    """Tokens, and vectors, that the pipeline's requests and those that are expected while it is kept will still have; for how
    long it will be there; and how many requests would go over."""

    tokens: float
    kept_s: float
    requests: int
    vectors: float = 0.0


class Round(NamedTuple):
    """Seconds of a token, and of a vector beyond what its prompt's length takes: in a pipeline, or later than in a whole
    replica."""

    token_s: float
    vector_s: float


def pipeline_s(
    stages: Sequence[tuple[int, Speeds]], hop_s: float, seen_s: float | None, late_s: float | None = None
) -> Round:
    """What once round the pipeline takes; `seen_s` is what a token took of late, and by `late_s` a vector came later than its
    stages compute it, be it for the hops or in spite of them: of several prompts each stage computes another."""
    predicted_s = token_s(stages, hop_s)
    vector_s = predicted_s if late_s is None else token_s(stages, 0.0) + max(0.0, late_s)
    return Round(max(predicted_s, seen_s or 0.0), vector_s)


def penalty_s(takes: Round, size_bytes: int, whole: Speeds) -> Round:
    """By how much each is later for coming out of a pipeline, where it takes so long. A prompt's tokens are computed as fast
    there as elsewhere."""
    own_s = step_s(size_bytes, 1, whole)
    return Round(takes.token_s - own_s, takes.vector_s - own_s)


def pays(outlook: Outlook, later: Round, pipeline: Placement, whole: Placement, ready_s: float, shift_s: float) -> str:
    """Why it pays to have the whole replica instead of the pipeline; empty if it does not. It is there after `ready_s`, and
    each request that goes over takes `shift_s`."""
    if outlook.kept_s <= ready_s:
        return ""
    share = 1.0 - ready_s / outlook.kept_s
    of_tokens_s = max(0.0, later.token_s) * outlook.tokens * share
    of_vectors_s = max(0.0, later.vector_s) * outlook.vectors * share
    waited_s = of_tokens_s + of_vectors_s
    more_bytes = sum(pipeline.reserved_bytes.values()) - sum(whole.reserved_bytes.values())
    memory_s = max(0, more_bytes) / max(1, sum(whole.reserved_bytes.values())) * outlook.kept_s * share
    cost_s = BEHIND * ready_s + shift_s * outlook.requests
    if waited_s + BEHIND * memory_s <= cost_s:
        return ""
    if waited_s <= cost_s:
        more = f"{more_bytes / 1e9:.1f} GB that a whole replica has not"
        return f"a pipeline of {pipeline.degree} has {more}, for {outlook.kept_s:.0f} s"
    what, later_s, count = ("token", later.token_s, outlook.tokens)
    if of_vectors_s > of_tokens_s:
        what, later_s, count = ("vector", later.vector_s, outlook.vectors)
    return (
        f"a pipeline of {pipeline.degree} gives each {what} {later_s * 1e3:.1f} ms later: {waited_s:.2f} s over the "
        f"{count:.0f} that are expected, against {cost_s:.2f} s to consolidate"
    )
