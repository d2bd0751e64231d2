"""How many replicas a model should have."""

from schedules.objectives import Objectives


def wanted_replicas(objectives: Objectives, outstanding_tokens: int) -> int:
    """As many as have KV cache for all tokens that are asked for (prompts and the most that answers may have), within
    the model's bounds. None are wanted for a model that nobody calls, unless its least number says so."""
    by_load = -(-outstanding_tokens // objectives.kv_tokens)
    return min(max(objectives.min_replicas, by_load), objectives.max_replicas)
