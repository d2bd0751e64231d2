"""Continuous batching as decisions alone: who runs, who waits, which tokens make up the next step.

Knows no tensor, no neighbour and no clock. The first stage of a group asks it for steps and tells it what came back.

KV cache is accounted in tokens: a request runs when the room for its whole length fits beside those running, in order
of arrival, so that nothing that runs is ever short of memory and nothing that waits is overtaken for ever.
"""

from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from cluster.stage.running import Running
from cluster.stage.steps import Adoption, Choice, Claim, Segment, Step, StepLimits
from cluster.wire.requests import Caught, Embedded, Event, Failed, Placed, Rejected, Submit, Tokens, Yielded
from schedules.requests import room_tokens

_LIMITS = StepLimits()


class Batching:
    """The requests of a group. `stages` steps may be under way at once.

    A request that grows beyond `renewal` tokens is fed from its first token anew, once: what the cache holds of it is then
    encoded for shorter sequences. None: the cache always holds good.

    A request that follows is fed what it is told to have, all but the last, and nothing of it is chosen until it goes on.
    """

    def __init__(self, kv_tokens: int, stages: int, renewal: int | None = None, limits: StepLimits = _LIMITS) -> None:
        self._kv_tokens, self._stages, self._renewal, self._limits = kv_tokens, stages, renewal, limits
        self._waiting: deque[Running] = deque()
        self._ready: deque[Running] = deque()
        self._running: dict[int, Running] = {}
        self._under_way: deque[Step] = deque()
        self._used_tokens = 0
        self._slots = 0
        self._ended: list[int] = []
        self._claims: list[Claim] = []
        self._adopting: deque[Running] = deque()
        self._news: list[Event] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and nothing can be begun before something is told."""
        return not (self._under_way or self._ready or self._adopting or self._may_admit())

    @property
    def steps_under_way(self) -> int:
        return len(self._under_way)

    @property
    def used_tokens(self) -> int:
        """KV cache that the running requests have, in tokens."""
        return self._used_tokens

    def submit(self, submit: Submit) -> Rejected | None:
        """Take a request; what can never fit, has nothing to feed or nothing to give is rejected."""
        found = self._take(submit)
        if isinstance(found, Rejected):
            return found
        self._waiting.append(found)
        return None

    def follow(self, submit: Submit, copied_tokens: int = 0) -> Rejected | None:
        """Take a request that is generated elsewhere. The KV cache of its first `copied_tokens` may be there, to claim."""
        if submit.pooling is not None:
            return Rejected(submit.request, "nothing is generated of it, so that there is nothing to follow")
        found = self._take(submit)
        if isinstance(found, Rejected):
            return found
        found.following = True
        if self._renewal is None:
            found.copied_tokens = max(0, min(copied_tokens, found.length - 1))
        if found.copied_tokens:
            found.asked = True
            self._claims.append(Claim(found.slot, submit.request, found.copied_tokens))
        self._waiting.append(found)
        return None

    def more(self, request: str, tokens: Sequence[int]) -> None:
        """The request that is followed has these tokens too. What is not followed is left alone."""
        found = self._extend(request, tokens)
        if found is not None:
            self._feed(found)

    def go_on(self, request: str, tokens: Sequence[int] = ()) -> None:
        """The same, and from now on it is a request like others; it may be over with these."""
        found = self._extend(request, tokens)
        if found is None:
            return
        found.following = False
        if found.finish is not None:
            self._news.append(Tokens(request, (), found.finish))
            self._drop(found)
        else:
            self._feed(found)

    def yield_up(self, request: str) -> None:
        """Give the request up with the token that is under way, at once if none is. Unless it ends with that, Yielded is the
        last that is told of it."""
        found = self._find(request)
        if found is None or found.yields:
            return
        coming = sum(s.wanted for step in self._under_way for s in step.segments if s.slot == found.slot)
        if coming > found.dropped:
            found.yields = True
        else:
            self._drop(found)
            self._news.append(Yielded(request))

    def cancel(self, request: str) -> None:
        """Nobody wants the request any more; what is not known is not running."""
        while (found := self._find(request)) is not None:
            self._drop(found)

    def place(self, request: str) -> Placed:
        """Its slot, and how many of its first tokens have come through all stages, and stay as they are."""
        found = self._find(request)
        if found is None or found.slot not in self._running:
            return Placed(request, None)
        return Placed(request, found.slot, found.landed if self._renewal is None else 0)

    def take_claims(self) -> list[Claim]:
        """What the stages are to be asked for since the last call; `claimed` is to be told of each what they say."""
        claims, self._claims = self._claims, []
        return claims

    def claimed(self, slot: int, held: bool) -> None:
        """Whether every stage has what was claimed; if not it is computed anew."""
        known = next((r for r in self._waiting if r.slot == slot), self._running.get(slot))
        if known is None:
            return
        known.asked = False
        if not held:
            known.copied_tokens = 0
        if slot in self._running:
            self._feed(known)

    def next_adoption(self) -> Adoption | None:
        """What the stages are to put into a room next, before the next step; None if nothing is to be."""
        while self._adopting and self._adopting[0].cancelled:
            self._adopting.popleft()
        if not self._adopting:
            return None
        request = self._adopting[0]
        first, request.fed = request.fed, min(request.fed + self._limits.adopt_tokens, request.copied_tokens)
        if request.fed == request.copied_tokens:
            self._adopting.popleft()
            self._feed(request)
        return Adoption(request.slot, request.room, first, request.fed)

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
        new = [request for request, _, _ in pieces if not (request.started or request.following or request.pooled)]
        started = tuple((request.slot, request.parameters()) for request in new)
        for request, segment, _ in pieces:
            request.started = not request.following
            request.fed += segment.tokens
            request.under_way += 1
            self._feed(request)
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
        if any(r.cancelled or r.yields or not r.decoding(segment) for _, segment, r in pieces):
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

    def land(
        self, choices: Sequence[Choice], unforeseen: Container[int] = (), vectors: Sequence[bytes | None] = ()
    ) -> list[Event]:
        """The oldest step under way is over: what was chosen for its wanted segments, in order, and the vectors of those that
        are pooled, None for one that is no numbers. What is to be told.

        At the places `unforeseen` among these, a step that runs ahead was fed something else; that is dropped, and fed anew.
        """
        step = self._under_way.popleft()
        events: list[Event] = []
        remaining, pooled = iter(enumerate(choices)), iter(vectors)
        for segment in step.segments:
            place, choice = next(remaining) if segment.wanted else (0, None)
            vector = next(pooled) if segment.pooled else None
            request = self._running.get(segment.slot)
            if request is None:
                continue
            request.under_way -= 1
            if self._end_if_cancelled(request) or request.cancelled:
                continue
            if request.dropped:
                request.dropped = False
                continue
            request.landed = segment.position + segment.tokens
            if segment.pooled:
                events.append(self._embed(request, vector))
                continue
            if choice is None:
                self._feed(request)
                continue
            if place in unforeseen and request.under_way:
                request.fed -= 1
                request.dropped = True
            if choice.later:
                request.fed -= 1
                self._feed(request)
            else:
                events.append(self._tell(request, choice))
            if request.yields and segment.slot in self._running:
                self._drop(request)
                events.append(Yielded(request.submit.request))
        return events

    def take_news(self) -> list[Event]:
        """What is to be told since the last call, beside what `land` gave."""
        news, self._news = self._news, []
        return news

    def take_ended(self) -> list[int]:
        """Slots that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def _take(self, submit: Submit) -> Running | Rejected:
        if not submit.tokens:
            return Rejected(submit.request, "there are no tokens to go on from")
        if submit.max_tokens < (1 if submit.pooling is None else 0):
            return Rejected(submit.request, f"max_tokens is {submit.max_tokens}, and there is nothing to generate")
        length = len(submit.tokens) + submit.max_tokens
        if length > self._kv_tokens:
            text = f"prompt and max_tokens are {length} tokens, this replica's KV cache holds {self._kv_tokens}"
            return Rejected(submit.request, text)
        self._slots += 1
        return Running(submit, self._slots, room_tokens(length, self._kv_tokens), list(submit.tokens))

    def _find(self, name: str) -> Running | None:
        known = [request for request in self._running.values() if not request.cancelled]
        return next((request for request in (*known, *self._waiting) if request.submit.request == name), None)

    def _extend(self, name: str, tokens: Sequence[int]) -> Running | None:
        """The request, if it is followed and has room for these too."""
        request = self._find(name)
        if request is None or not request.following:
            return None
        if request.generated + len(tokens) > request.submit.max_tokens:
            self._news.append(Rejected(name, f"it has more than the {request.submit.max_tokens} tokens it might have"))
            self._drop(request)
            return None
        before = request.length
        request.tokens += tokens
        if self._renewal is not None and before <= self._renewal < request.length:
            request.fed = 0
        return request

    def _may_admit(self) -> bool:
        return bool(self._waiting) and self._used_tokens + self._waiting[0].room <= self._kv_tokens

    def _admit(self) -> None:
        while self._may_admit():
            request = self._waiting.popleft()
            self._used_tokens += request.room
            self._running[request.slot] = request
            self._feed(request)

    def _feed(self, request: Running) -> None:
        """Have what the request lacks brought to it, if anything is there; tell if it follows and lacks nothing."""
        if request.queued or request.slot not in self._running or request.asked:
            return
        if request.fed < request.copied_tokens:
            if request not in self._adopting:
                self._adopting.append(request)
        elif request.left > 0:
            request.queued = True
            self._ready.append(request)
        elif request.following and not request.under_way and request.caught < request.length:
            request.caught = request.length
            self._news.append(Caught(request.submit.request, request.length))

    def _choose(self) -> list[tuple[Running, int]]:
        """Who is in the next step and with how many tokens: a stage's share of those running, who waits longest first."""
        share = min(-(-sum(not r.rests for r in self._running.values()) // self._stages), self._limits.rows)
        running = self._running.values()
        answering = any(request.answers for request in running)  # also in steps under way
        alone = all(request.following for request in running)
        most = self._limits.prefill_tokens_alone
        if any(request.pooled for request in running):
            most = min(most, self._limits.embed_tokens)
        prompts = self._limits.prefill_tokens if answering else most
        follow = most if alone else self._limits.follow_tokens
        chosen: list[tuple[Running, int]] = []
        passed: list[Running] = []
        while self._ready and len(chosen) < share:
            request = self._ready.popleft()
            count = 1
            if request.following:
                count = self._prompt_tokens(request, min(follow, most))
                follow, most = follow - count, most - count
            elif not request.decodes:
                count = self._prompt_tokens(request, min(prompts, most))
                prompts, most = prompts - count, most - count
            if count:
                request.queued = False
                chosen.append((request, count))
            else:
                passed.append(request)
        self._ready.extendleft(reversed(passed))
        return chosen

    def _prompt_tokens(self, request: Running, most: int) -> int:
        """Tokens of the next piece of a prompt, cut so that pieces follow each other over the stages."""
        return min(request.left, most, max(self._limits.prefill_tokens, -(-request.length // self._stages)))

    def _piece(self, request: Running, count: int) -> tuple[Running, Segment, Sequence[int]]:
        end = request.fed + count
        wanted = end == request.length and not (request.following or request.pooled)
        pooling = request.submit.pooling
        segment = Segment(request.slot, count, request.fed, wanted, request.room, self._whole(request), pooling)
        return request, segment, request.tokens[request.fed : end]

    def _whole(self, request: Running) -> int:
        """Tokens of the request that `generate` computes at once: its prompt, or all that it has when that is renewed."""
        prompt = request.length if request.pooled else request.submit.prompt_tokens
        if self._renewal is not None and prompt <= self._renewal < request.length:
            return self._renewal + 1
        return prompt

    def _tell(self, request: Running, choice: Choice) -> Event:
        """What was chosen, or why nothing was."""
        name = request.submit.request
        if choice.token is not None:
            return self._give_out(request, choice, choice.token)
        self._end(request)
        if choice.fault is None:
            return Failed(name, f"the model's logits at position {request.length} are not finite numbers")
        answered = request.length > request.submit.prompt_tokens
        return Failed(name, choice.fault) if answered else Rejected(name, choice.fault)

    def _embed(self, request: Running, vector: bytes | None) -> Event:
        self._end(request)
        name = request.submit.request
        if vector is None:
            return Failed(name, f"the model's hidden states of {request.length} tokens are not finite numbers")
        return Embedded(name, (), "stop", vector=vector)

    def _give_out(self, request: Running, choice: Choice, token: int) -> Tokens:
        request.tokens.append(token)
        finish = "stop" if choice.over else request.finish
        if finish is None:
            if self._renewal is not None and request.length == self._renewal + 1:
                request.fed = 0
            self._feed(request)
        else:
            self._end(request)
        logprobs = () if choice.logprobs is None else (choice.logprobs,)
        return Tokens(request.submit.request, (token,), finish, logprobs)

    def _last_of(self, request: Running) -> bool:
        """Whether the token that is on its way is the request's last, as far as that is known."""
        return request.generated + 1 >= request.submit.max_tokens

    def _drop(self, request: Running) -> None:
        """It is over as soon as nothing of it is under way."""
        if request.slot not in self._running:
            self._waiting.remove(request)
            if request.copied_tokens:
                self._ended.append(request.slot)  # the stages keep something for it
            return
        request.cancelled = True
        if request.queued:
            request.queued = False
            self._ready.remove(request)
        self._end_if_cancelled(request)

    def _end_if_cancelled(self, request: Running) -> bool:
        if not request.cancelled or request.under_way:
            return False
        self._end(request)
        return True

    def _end(self, request: Running) -> None:
        del self._running[request.slot]
        self._used_tokens -= request.room
        self._ended.append(request.slot)
