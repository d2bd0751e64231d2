"""What goes through the stages of a group: steps of requests' tokens, what they give, and where KV cache is put.

Knows no tensor.
"""

from dataclasses import dataclass

from cluster.wire.requests import Submit, TokenLogprobs
from schedules.requests import EMBEDDED, PROMPTS_ALONE, PROMPTS_BESIDE, PROMPTS_BESIDE_ON_GPU
from storage_tiers.pooling import Mode

PREFILL_TOKENS, PREFILL_TOKENS_ALONE = PROMPTS_BESIDE, PROMPTS_ALONE
FOLLOW_TOKENS = 32
ADOPT_TOKENS = 256
MAX_ROWS = 128


@dataclass(frozen=True)
class StepLimits:
    """How much a step may hold: requests, whose logits stand in memory together; prompt tokens beside others that decode,
    whose next token they hold up; prompt tokens where nobody decodes, and where some are for vectors; tokens of those that
    follow beside others; tokens whose KV cache is put into its room between two steps."""

    rows: int = MAX_ROWS
    prefill_tokens: int = PREFILL_TOKENS
    prefill_tokens_alone: int = PREFILL_TOKENS_ALONE
    embed_tokens: int = EMBEDDED
    follow_tokens: int = FOLLOW_TOKENS
    adopt_tokens: int = ADOPT_TOKENS


GPU_LIMITS = StepLimits(
    rows=256,
    prefill_tokens=PROMPTS_BESIDE_ON_GPU,
    embed_tokens=PREFILL_TOKENS_ALONE,
    follow_tokens=1024,
    adopt_tokens=2048,
)
"""There telling the device what to do lasts as long as some 1,000 tokens of a prompt."""


@dataclass(frozen=True)
class Segment:
    """One request's part of a step: `tokens` of it, the first at `position`; `wanted` if the next is to be chosen. With
    `pooling` none ever is: wanted is a vector of the whole request, which comes with its last piece.

    `slot` names the request within the group, `room` is how many tokens its KV cache has to hold. Its first `whole` tokens
    belong together, as if they were computed at once, in whatever pieces they come.
    """

    slot: int
    tokens: int
    position: int
    wanted: bool
    room: int
    whole: int = 0
    pooling: Mode | None = None

    @property
    def pooled(self) -> bool:
        """Whether this is the last piece of a request that a vector is made of."""
        return self.pooling is not None and self.position + self.tokens == self.whole


@dataclass(frozen=True)
class Step:
    """What goes through the stages together. `feed` are the segments' tokens in a row; `started` run for the first time, or
    for the first time not only to follow.

    A step that runs `ahead` is made before the one under way has landed: it has no feed, for its tokens are those that the
    requests at these places in that step are given.
    """

    segments: tuple[Segment, ...]
    feed: tuple[int, ...]
    started: tuple[tuple[int, Submit], ...] = ()
    ahead: tuple[int, ...] = ()

    @property
    def wanted(self) -> tuple[Segment, ...]:
        """Segments whose next token is to be chosen, in order."""
        return tuple(segment for segment in self.segments if segment.wanted)

    @property
    def vectors(self) -> int:
        """How many vectors it gives."""
        return sum(segment.pooled for segment in self.segments)


@dataclass(frozen=True)
class Choice:
    """A token that was chosen, with its log probabilities if the request asked for them; `over` if its grammar lets nothing
    follow.

    None if there is none: because nobody knows yet what may be chosen, and the request is to come again (`later`), because
    its grammar cannot be kept to (`fault` says why), or because the logits are no numbers.
    """

    token: int | None
    logprobs: TokenLogprobs | None = None
    over: bool = False
    later: bool = False
    fault: str | None = None


@dataclass(frozen=True)
class Claim:
    """Every stage is to say whether it has the KV cache of the first `tokens` tokens of `request`, which runs as `slot`, and
    to keep it until the slot is forgotten."""

    slot: int
    request: str
    tokens: int


@dataclass(frozen=True)
class Adoption:
    """Every stage puts tokens [first, end) of what was claimed for `slot` into its room."""

    slot: int
    room: int
    first: int
    end: int
