"""Continuous batching as decisions alone: who runs, who waits, which tokens make up the next step.

Knows no tensor, no neighbour and no clock. The first stage of a group asks it for steps and tells it what came back.

KV cache is accounted in tokens: a request runs when the room for its whole length fits beside those running, in order
of arrival, so that nothing that runs is ever short of memory and nothing that waits is overtaken for ever.
"""

from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

from cluster.wire.requests import Failed, Rejected, Submit, TokenLogprobs, Tokens
from schedules.requests import room_tokens

PREFILL_TOKENS = 256
PREFILL_TOKENS_ALONE = 2048
MAX_ROWS = 128


@dataclass(frozen=True)
class StepLimits:
    """How much a step may hold: requests, whose logits stand in memory together; prompt tokens beside others that decode,
    whose next token they hold up; prompt tokens where nobody decodes."""

    rows: int = MAX_ROWS
    prefill_tokens: int = PREFILL_TOKENS
    prefill_tokens_alone: int = PREFILL_TOKENS_ALONE


GPU_LIMITS = StepLimits(rows=256, prefill_tokens=1024)
"""There telling the device what to do lasts as long as some 1,000 tokens of a prompt."""


@dataclass(frozen=True)
class Segment:
    """One request's part of a step: `tokens` of it, the first at `position`; `wanted` if the next is to be chosen.

    `slot` names the request within the group, `room` is how many tokens its KV cache has to hold. Its first `whole` tokens
    belong together, as if they were computed at once, in whatever pieces they come.
    """

    slot: int
    tokens: int
    position: int
    wanted: bool
    room: int
    whole: int = 0


@dataclass(frozen=True)
class Step:
    """What goes through the stages together. `feed` are the segments' tokens in a row; `started` run for the first time.

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


@dataclass(frozen=True)
class Choice:
    """A token that was chosen, with its log probabilities if the request asked for them; None if none could be."""

    token: int | None
    logprobs: TokenLogprobs | None = None


@dataclass(eq=False)
class _Request:
    submit: Submit
    slot: int
    room: int
    tokens: list[int]
    fed: int = 0
    started: bool = False
    under_way: int = 0
    queued: bool = False
    cancelled: bool = False
    dropped: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.submit.tokens)

    @property
    def decodes(self) -> bool:
        return self.fed > 0 and self.length - self.fed == 1

    def decoding(self, segment: Segment) -> bool:
        """Whether the segment, which is under way, is all that has not come back, one token of it."""
        return segment.tokens == 1 and segment.wanted and self.under_way == 1 and self.fed == self.length

    @property
    def answers(self) -> bool:
        """Its prompt is in, and its next token is to be fed or under way."""
        return self.fed > 0 and self.length - self.fed <= 1


class Batching:
    """The requests of a group. `stages` steps may be under way at once.

    A request that grows beyond `renewal` tokens is fed from its first token anew, once: what the cache holds of it is then
    encoded for shorter sequences. None: the cache always holds good.
    """

    def __init__(
        self, kv_tokens: int, stages: int, renewal: int | None = None, limits: StepLimits = StepLimits()
    ) -> None:
        self._kv_tokens, self._stages, self._renewal, self._limits = kv_tokens, stages, renewal, limits
        self._waiting: deque[_Request] = deque()
        self._ready: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        self._under_way: deque[Step] = deque()
        self._used_tokens = 0
        self._slots = 0
        self._ended: list[int] = []

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits, and no step is under way."""
        return not (self._running or self._waiting or self._under_way)

    @property
    def steps_under_way(self) -> int:
        return len(self._under_way)

    @property
    def used_tokens(self) -> int:
        """KV cache that the running requests have, in tokens."""
        return self._used_tokens

    def submit(self, submit: Submit) -> Rejected | None:
        """Take a request; what can never fit, has nothing to feed or nothing to give is rejected."""
        if not submit.tokens:
            return Rejected(submit.request, "there are no tokens to go on from")
        if submit.max_tokens < 1:
            return Rejected(submit.request, f"max_tokens is {submit.max_tokens}, and there is nothing to generate")
        length = len(submit.tokens) + submit.max_tokens
        if length > self._kv_tokens:
            text = f"prompt and max_tokens are {length} tokens, this replica's KV cache holds {self._kv_tokens}"
            return Rejected(submit.request, text)
        self._slots += 1
        room = room_tokens(length, self._kv_tokens)
        self._waiting.append(_Request(submit, self._slots, room, list(submit.tokens)))
        return None

    def cancel(self, request: str) -> None:
        """Nobody wants the request any more; what is not known is not running."""
        self._waiting = deque(r for r in self._waiting if r.submit.request != request)
        for found in [r for r in self._running.values() if r.submit.request == request]:
            found.cancelled = True
            if found.queued:
                found.queued = False
                self._ready.remove(found)
            self._end_if_cancelled(found)

    def next_step(self, order: Callable[[Segment], tuple[int, ...]]) -> Step | None:
        """The next step, None while there is nothing to run or as many are under way as there are stages.

        Requests that decode stand first, sorted by `order`.
        """
        if len(self._under_way) >= self._stages:
            return None
        self._admit()
        pieces = [self._piece(request, count) for request, count in self._choose()]
        if not pieces:
            return None
        pieces.sort(key=lambda piece: (0, *order(piece[1])) if piece[0].decodes else (1,))
        started = tuple((request.slot, request.submit) for request, _, _ in pieces if not request.started)
        for request, segment, _ in pieces:
            request.started = True
            request.fed += segment.tokens
            request.under_way += 1
            if not segment.wanted:
                self._queue(request)
        feed = tuple(token for _, _, tokens in pieces for token in tokens)
        step = Step(tuple(segment for _, segment, _ in pieces), feed, started)
        self._under_way.append(step)
        return step

    def step_ahead(self) -> Step | None:
        """What follows the only step under way, if that is one token each and nothing but these requests runs or waits.

        Some of them may end with it unforeseen: what the step gives for those is dropped when it lands.
        """
        if self._stages > 1 or len(self._under_way) != 1 or self._waiting or self._ready:
            return None
        pieces = [(place, segment, self._running[segment.slot]) for place, segment in enumerate(self._under_way[0].segments)
                  if segment.slot in self._running]  # fmt: skip
        if any(request.cancelled or not request.decoding(segment) for _, segment, request in pieces):
            return None
        going = [piece for piece in pieces if not self._last_of(piece[2])]
        if not going or any(request.length == self._renewal for _, _, request in going):
            return None
        for _, _, request in going:
            request.fed += 1
            request.under_way += 1
        segments = tuple(replace(segment, position=segment.position + 1) for _, segment, _ in going)
        step = Step(segments, (), ahead=tuple(place for place, _, _ in going))
        self._under_way.append(step)
        return step

    def land(self, choices: Sequence[Choice], unforeseen: Container[int] = ()) -> list[Tokens | Failed]:
        """The oldest step under way is over: what was chosen for its wanted segments, in order. What is to be told.

        At the places `unforeseen` among these, a step that runs ahead was fed something else; that is dropped, and fed anew.
        """
        step = self._under_way.popleft()
        events: list[Tokens | Failed] = []
        remaining = iter(enumerate(choices))
        for segment in step.segments:
            place, choice = next(remaining) if segment.wanted else (0, None)
            request = self._running.get(segment.slot)
            if request is None:
                continue
            request.under_way -= 1
            if self._end_if_cancelled(request) or request.cancelled or choice is None:
                continue
            if request.dropped:
                request.dropped = False
                continue
            if place in unforeseen and request.under_way:
                request.fed -= 1
                request.dropped = True
            events.append(
                self._fail(request) if choice.token is None else self._give_out(request, choice, choice.token)
            )
        return events

    def take_ended(self) -> list[int]:
        """Slots that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def _admit(self) -> None:
        while self._waiting and self._used_tokens + self._waiting[0].room <= self._kv_tokens:
            request = self._waiting.popleft()
            self._used_tokens += request.room
            self._running[request.slot] = request
            self._queue(request)

    def _choose(self) -> list[tuple[_Request, int]]:
        """Who is in the next step and with how many tokens: a stage's share of those running, who waits longest first."""
        share = min(-(-len(self._running) // self._stages), self._limits.rows)
        answering = any(request.answers for request in self._running.values())  # also in steps under way
        prefill = self._limits.prefill_tokens if answering else self._limits.prefill_tokens_alone
        chosen: list[tuple[_Request, int]] = []
        passed: list[_Request] = []
        while self._ready and len(chosen) < share:
            request = self._ready.popleft()
            count = 1
            if not request.decodes:
                count = self._prompt_tokens(request, prefill)
                prefill -= count
            if count:
                request.queued = False
                chosen.append((request, count))
            else:
                passed.append(request)
        self._ready.extendleft(reversed(passed))
        return chosen

    def _prompt_tokens(self, request: _Request, most: int) -> int:
        """Tokens of the next piece of a prompt, cut so that pieces follow each other over the stages."""
        left = request.length - request.fed
        return min(left, most, max(self._limits.prefill_tokens, -(-request.length // self._stages)))

    def _piece(self, request: _Request, count: int) -> tuple[_Request, Segment, Sequence[int]]:
        end = request.fed + count
        wanted = end == request.length
        segment = Segment(request.slot, count, request.fed, wanted, request.room, self._whole(request))
        return request, segment, request.tokens[request.fed : end]

    def _whole(self, request: _Request) -> int:
        """Tokens of the request that `generate` computes at once: its prompt, or all that it has when that is renewed."""
        prompt = request.submit.prompt_tokens
        if self._renewal is not None and prompt <= self._renewal < request.length:
            return self._renewal + 1
        return prompt

    def _fail(self, request: _Request) -> Failed:
        self._end(request)
        return Failed(request.submit.request, f"the model's logits at position {request.length} are not finite numbers")

    def _give_out(self, request: _Request, choice: Choice, token: int) -> Tokens:
        request.tokens.append(token)
        finish = None
        if token in request.submit.stop_tokens:
            finish = "stop"
        elif request.generated >= request.submit.max_tokens:
            finish = "length"
        if finish is None:
            if self._renewal is not None and request.length == self._renewal + 1:
                request.fed = 0
            if request.fed < request.length:
                self._queue(request)
        else:
            self._end(request)
        logprobs = () if choice.logprobs is None else (choice.logprobs,)
        return Tokens(request.submit.request, (token,), finish, logprobs)

    def _last_of(self, request: _Request) -> bool:
        """Whether the token that is on its way is the request's last, as far as that is known."""
        return request.generated + 1 >= request.submit.max_tokens

    def _queue(self, request: _Request) -> None:
        request.queued = True
        self._ready.append(request)

    def _end_if_cancelled(self, request: _Request) -> bool:
        if not request.cancelled or request.under_way:
            return False
        self._end(request)
        return True

    def _end(self, request: _Request) -> None:
        del self._running[request.slot]
        self._used_tokens -= request.room
        self._ended.append(request.slot)
