"""How many rounds a request is followed for before it goes over."""

NEAR_TOKENS = 8
"""So few are computed in about the time of one: a step that is bound by reading its weights takes them along."""
ROUNDS = 16
LONGEST_ROUND_S = 1.0
"""What is behind and gets no less is what a client will wait for: up to so long that is worth it."""


def goes_over(behind_tokens: int, behind_before: int | None, took_s: float) -> bool:
    """Whether who follows is as near as it will come: it is behind by a few tokens, or by no fewer than the round before, if
    there was one. This round took `took_s`, and the next would as long."""
    if behind_tokens <= NEAR_TOKENS:
        return True
    return behind_before is not None and behind_tokens >= behind_before and took_s <= LONGEST_ROUND_S


def never_near(behind_tokens: int, took_s: float) -> str:
    """Why it stays where it is, after ROUNDS."""
    return f"it was {behind_tokens} tokens behind after {ROUNDS} rounds, the last of which took {took_s:.1f} s"
