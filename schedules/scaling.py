"""How many replicas a model should have."""

from math import ceil

from schedules.estimates import Speeds, step_s
from schedules.objectives import Objectives
from schedules.requests import PROMPTS_ALONE

CLEARED_WITHIN_S = 10.0
"""What is asked for already is to be answered about so soon, where the model has no service level."""
MOST_AT_ONCE = 256
"""Requests that a replica gives a token in one step."""


def wanted_replicas(objectives: Objectives, outstanding_tokens: int, busy: int = 0) -> int:
    """As many as have KV cache for all tokens that are asked for (prompts and the most that answers may have), and as are
    `busy` with what comes, within the model's bounds. None are wanted for a model that nobody calls, unless its least number
    says so."""
    by_load = -(-outstanding_tokens // objectives.kv_tokens)
    return min(max(objectives.min_replicas, by_load, busy), objectives.max_replicas)


def busy_replicas(
    objectives: Objectives, size_bytes: int, speeds: Speeds, arrivals_per_s: float, backlog_tokens: float,
    answer_tokens: float, room_tokens: int, embedded_per_s: float = 0.0, backlog_embedded: float = 0.0,
) -> int:  # fmt: skip
    """How many whole replicas give the tokens that are wanted: those of answers that come, and of the backlog within the time
    to first token that was promised. Each gives as many requests a token in a step as have room there, and as the time per
    token lets it. Besides, so many tokens of prompts are embedded, which come as many to a step as it takes."""
    within_s = objectives.ttft_s or CLEARED_WITHIN_S
    wanted_per_s = arrivals_per_s * answer_tokens + backlog_tokens / max(within_s, 1.0)
    at_once = max(1, min(MOST_AT_ONCE, objectives.kv_tokens // max(1, room_tokens)))
    if objectives.tpot_s is not None:
        while at_once > 1 and step_s(size_bytes, at_once, speeds) > objectives.tpot_s:
            at_once //= 2
    embedded_per_s += backlog_embedded / max(within_s, 1.0)
    embedding = embedded_per_s * step_s(size_bytes, PROMPTS_ALONE, speeds) / PROMPTS_ALONE
    return ceil(wanted_per_s * step_s(size_bytes, at_once, speeds) / at_once + embedding)
