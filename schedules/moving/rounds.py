"""How many rounds a request is followed for before it goes over."""

NEAR_TOKENS = 8
"""So few are computed in about the time of one: a step that is bound by reading its weights takes them along."""


def goes_over(behind_tokens: int, behind_before: int | None) -> bool:
    """Whether who follows is as near as it will come: it is behind by a few tokens, or by no fewer than the round before,
    if there was one."""
    return behind_tokens <= NEAR_TOKENS or (behind_before is not None and behind_tokens >= behind_before)
