"""A request as its group runs it: what is known of it, how far it is fed, and what is to become of it."""

from dataclasses import dataclass, replace

from cluster.stage.steps import Segment
from cluster.wire.requests import Submit


@dataclass(eq=False)
class Running:
    """`fed` tokens of it were given to the stages, `landed` have come through all of them.

    While it is `following`, its tokens come from elsewhere, all but the last are fed, and none is chosen; `caught` of them
    were there when that was told last. The KV cache of its first `copied_tokens` is taken over; it is `asked` until the
    stages have said whether they have that. One that `yields` is over with the token that is under way, one that is
    `cancelled` with what is under way, whose token goes nowhere.
    """

    submit: Submit
    slot: int
    room: int
    tokens: list[int]
    following: bool = False
    copied_tokens: int = 0
    asked: bool = False
    fed: int = 0
    landed: int = 0
    caught: int = 0
    started: bool = False
    under_way: int = 0
    queued: bool = False
    yields: bool = False
    cancelled: bool = False
    dropped: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.submit.tokens)

    @property
    def left(self) -> int:
        """Tokens that are to be fed as things stand."""
        return self.length - self.fed - self.following

    @property
    def rests(self) -> bool:
        """Nothing is to be fed before somebody else has done or said something."""
        return self.asked or self.fed < self.copied_tokens or (self.following and not self.left)

    @property
    def pooled(self) -> bool:
        """It is to give a vector, and no token."""
        return self.submit.pooling is not None

    @property
    def decodes(self) -> bool:
        return not (self.following or self.pooled) and self.fed > 0 and self.left == 1

    def decoding(self, segment: Segment) -> bool:
        """Whether the segment, which is under way, is all that has not come back, one token of it."""
        return segment.tokens == 1 and segment.wanted and self.under_way == 1 and self.fed == self.length

    @property
    def answers(self) -> bool:
        """Its prompt is in, and its next token is to be fed or under way."""
        return not (self.following or self.pooled) and self.fed > 0 and self.left <= 1

    @property
    def finish(self) -> str | None:
        """Why it is over with the last of its tokens, as far as that was generated since it came; None if it is not."""
        if self.generated and self.tokens[-1] in self.submit.stop_tokens:
            return "stop"
        return "length" if self.generated >= self.submit.max_tokens else None

    def parameters(self) -> Submit:
        """What its next token is chosen by: all that it has by now, and what may still come."""
        left = self.submit.max_tokens - self.generated
        return replace(self.submit, tokens=tuple(self.tokens), max_tokens=left)
