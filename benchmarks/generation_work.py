"""What is generated and what is told of it: requests that arrive, and when each of their tokens came.

Everyone who is measured gets the same prompts at the same times. Imports nothing of ours, as the peers do not.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

NEW_TOKENS = 48
PROMPT_TOKENS = 32
MEAN_GAP_S = 0.05
"""Between arrivals at random: so short that requests pile up, so long that they join while others are under way."""
_SEED = 16


@dataclass(frozen=True)
class Request:
    """Exactly `new_tokens` tokens are wanted after the prompt, greedily, from `arrival_s` seconds after the start."""

    prompt: tuple[int, ...]
    new_tokens: int
    arrival_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The tokens of a request, and when each came: seconds after the start."""

    tokens: tuple[int, ...]
    times_s: tuple[float, ...]


def together(text: Sequence[int], count: int) -> list[Request]:
    """Requests that start and end together: prompts of one length, each from another place of the text."""
    step = (len(text) - PROMPT_TOKENS) // 32
    starts = [index * step % (len(text) - PROMPT_TOKENS) for index in range(count)]
    return [Request(tuple(text[start : start + PROMPT_TOKENS]), NEW_TOKENS) for start in starts]


def random_arrivals(text: Sequence[int], count: int) -> list[Request]:
    """Requests that join and leave: Poisson arrivals, prompts of 12 to 96 tokens, 16 to 80 new ones.

    Fewer requests are the first of more.
    """
    chance = random.Random(_SEED)
    found, arrival_s = [], 0.0
    for _ in range(count):
        length, new_tokens = chance.randint(12, 96), chance.randint(16, 2 * NEW_TOKENS - 16)
        start = chance.randrange(len(text) - length)
        found.append(Request(tuple(text[start : start + length]), new_tokens, arrival_s))
        arrival_s += chance.expovariate(1 / MEAN_GAP_S)
    return found


def shortened(requests: Sequence[Request], new_tokens: int = 4) -> list[Request]:
    """The same with few tokens, to warm up with."""
    return [replace(request, new_tokens=new_tokens) for request in requests]


def tokens_per_s(outcomes: Sequence[Outcome]) -> float:
    """All tokens, over the time from the first arrival to the last token."""
    return sum(len(outcome.tokens) for outcome in outcomes) / max(outcome.times_s[-1] for outcome in outcomes)


def tpot_s(outcomes: Sequence[Outcome]) -> float:
    """Time per output token after a request's first: the median of the requests."""
    return statistics.median((o.times_s[-1] - o.times_s[0]) / (len(o.times_s) - 1) for o in outcomes)


def check(requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
    """RuntimeError unless every request got as many tokens as it wanted."""
    wanted = [request.new_tokens for request in requests]
    got = [len(outcome.tokens) for outcome in outcomes]
    if got != wanted or any(len(o.times_s) != len(o.tokens) for o in outcomes):
        raise RuntimeError(f"{wanted} tokens were wanted, {got} came")


def equal_fraction(outcomes: Sequence[Outcome], expected: Sequence[Outcome]) -> float:
    """How many of the sequences are those expected, token for token, of as many as there are of both."""
    pairs = list(zip(outcomes, expected, strict=False))
    return sum(one.tokens == other.tokens for one, other in pairs) / len(pairs)
