"""A group whose requests come from elsewhere and go on elsewhere, played: all that it says is held against what must be.

Tokens are those of played_group. What the stages have of a slot is kept by position, with how many tokens its request counted
when it was encoded: no step may compute on a hole, or on what an undisturbed request would not have.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from cluster.stage.batching import Batching
from cluster.stage.steps import Choice, Claim, Segment, Step, StepLimits
from cluster.wire.requests import Caught, Event, Rejected, Submit, Tokens, Yielded
from tests.cluster.played_group import ask, text

LIMITS = StepLimits(prefill_tokens=20, prefill_tokens_alone=60, follow_tokens=4, adopt_tokens=7)


@dataclass
class Asked:
    """What is known of a request outside: its tokens are the first `length` of its text."""

    number: int
    submit: Submit
    slot: int
    length: int
    following: bool
    over: str = ""
    caught: int = 0
    yields: bool = False
    adopted: int = 0

    @property
    def left(self) -> int:
        return len(self.submit.tokens) + self.submit.max_tokens - self.length

    @property
    def stops(self) -> bool:
        own = self.length > len(self.submit.tokens)
        return own and text(self.number, self.length - 1, self.length)[0] in self.submit.stop_tokens

    def encoded(self, position: int, renewal: int | None) -> int:
        """How many tokens the request counts at a position as things stand."""
        prompt = self.submit.prompt_tokens
        renewed = renewal is not None and prompt <= renewal < self.length
        return max(position + 1, renewal + 1 if renewed and renewal is not None else prompt)


class PlayedMoves:
    def __init__(self, kv_tokens: int = 10_000, stages: int = 1, renewal: int | None = None) -> None:
        self.batching = Batching(kv_tokens, stages, renewal, LIMITS)
        self.asked: dict[str, Asked] = {}
        self.told: list[Event] = []
        self.steps: list[Step] = []
        self.claims: list[Claim] = []
        self._by_slot: dict[int, Asked] = {}
        self._had: dict[int, dict[int, tuple[int, int]]] = {}
        self._started: set[int] = set()
        self._ended: list[int] = []
        self._under_way: deque[Step] = deque()
        self._kv_tokens, self._renewal, self._stages = kv_tokens, renewal, stages

    def submit(self, prompt: int = 3, max_tokens: int = 4, stop_at: int | None = None) -> str:
        submit = ask(len(self.asked), prompt, max_tokens, 0, stop_at)
        return self._take(submit, False, self.batching.submit(submit))

    def follow(
        self, prompt: int = 3, max_tokens: int = 4, generated: int = 0, kv_tokens: int = 0, stop_at: int | None = None
    ) -> str:
        submit = ask(len(self.asked), prompt, max_tokens, generated, stop_at)
        name = self._take(submit, True, self.batching.follow(submit, kv_tokens))
        self.claims += self.batching.take_claims()
        return name

    def more(self, name: str, tokens: int = 1) -> None:
        self._extend(name, tokens, False)

    def go_on(self, name: str, tokens: int = 0) -> None:
        self._extend(name, tokens, True)

    def yield_up(self, name: str) -> None:
        known = self.asked.get(name)
        self.batching.yield_up(name)
        if known is not None:
            known.yields = True
        self._look()

    def cancel(self, name: str) -> None:
        self.batching.cancel(name)
        if name in self.asked and not self.asked[name].over:
            self.asked[name].over = "cancelled"
        self._look()

    def answer(self, held: bool = True) -> None:
        """The oldest claim comes back."""
        if self.claims:
            self.batching.claimed(self.claims.pop(0).slot, held)
            self._look()

    def step(self) -> Step | None:
        """What a driver does before it waits: KV cache into its place, then a step, if there is one."""
        adoption = self.batching.next_adoption()
        if adoption is not None:
            known = self._by_slot[adoption.slot]
            assert not known.over
            assert known.adopted == adoption.first < adoption.end <= adoption.first + LIMITS.adopt_tokens
            known.adopted = adoption.end
            self._have(known, adoption.first, adoption.end, known.submit.prompt_tokens)
        step = self.batching.next_step(lambda segment: (segment.room, segment.slot))
        self._look()
        if step is None:
            return None
        for slot, submit in step.started:
            self._begin(self._by_slot[slot], submit)
        at = 0
        for segment in step.segments:
            known = self._by_slot[segment.slot]
            tokens = text(known.number, segment.position, segment.position + segment.tokens)
            assert step.feed[at : at + segment.tokens] == tokens
            at += segment.tokens
            self._check(known, segment)
            self._have(known, segment.position, segment.position + segment.tokens, segment.whole)
        assert at == len(step.feed) <= LIMITS.prefill_tokens_alone + len(step.wanted)
        self.steps.append(step)
        self._under_way.append(step)
        return step

    def ahead(self) -> Step | None:
        """The device goes on with what it chose."""
        step = self.batching.step_ahead()
        if step is not None:
            self._under_way.append(step)
        return step

    def land(self, unforeseen: Collection[int] = ()) -> None:
        """The oldest step under way is over. Where `unforeseen`, what ran ahead was fed something else."""
        if not self._under_way:
            return
        step = self._under_way.popleft()
        following = self._under_way[0] if self._under_way else None
        if following is not None and following.ahead:
            for place, segment in zip(following.ahead, following.segments, strict=True):
                known = self._by_slot[segment.slot]
                if place not in unforeseen:
                    self._have(known, segment.position, segment.position + 1, segment.whole)
        choices = [Choice(self._next(segment)) for segment in step.wanted]
        self._hear(self.batching.land(choices, unforeseen))
        self._look()

    def run(self) -> None:
        """Until nothing happens any more by itself."""
        while self.claims or not self.batching.idle:
            self.answer()
            before = self._done()
            while self.step() is not None:
                pass
            assert self._under_way or self._done() != before or self.batching.idle, (
                "nothing happens, and it is not idle"
            )
            self.land()

    def _done(self) -> tuple[int, int, int]:
        adopted = sum(known.adopted for known in self.asked.values())
        return len(self.steps), adopted, self.batching.used_tokens

    def end(self) -> None:
        """All that are followed go on, and everything comes to its end."""
        self.run()
        for known in list(self.asked.values()):
            if known.following and not known.over:
                assert known.caught == known.length or self.batching.place(known.submit.request).slot is None
                self.go_on(known.submit.request)
                self.run()
        assert all(known.over for known in self.asked.values()), "somebody has no end"
        assert self.batching.used_tokens == 0
        assert len(set(self._ended)) == len(self._ended)
        assert set(self._had) <= set(self._ended), "a slot leaks"

    def _take(self, submit: Submit, following: bool, rejected: Rejected | None) -> str:
        slot = len(self._by_slot) + 1
        known = Asked(int(submit.request[1:]), submit, slot, len(submit.tokens), following)
        self.asked[submit.request] = known
        if rejected is not None:
            assert len(submit.tokens) + submit.max_tokens > self._kv_tokens
            known.over = "rejected"
        else:
            self._by_slot[slot] = known
        self._look()
        return submit.request

    def _extend(self, name: str, tokens: int, on: bool) -> None:
        known = self.asked.get(name)
        if known is None or known.over or not known.following:
            (self.batching.go_on if on else self.batching.more)(name, text(0, 0, tokens))
            self._look()
            return
        new = text(known.number, known.length, known.length + tokens)
        if tokens <= known.left:
            known.length += tokens
            known.following = not on
        (self.batching.go_on if on else self.batching.more)(name, new)
        self._look()

    def _begin(self, known: Asked, submit: Submit) -> None:
        assert not known.following
        assert known.slot not in self._started
        assert submit.tokens == text(known.number, 0, known.length), "what it was given by then is to count"
        assert submit.max_tokens == known.left
        self._started.add(known.slot)

    def _check(self, known: Asked, segment: Segment) -> None:
        end, had = segment.position + segment.tokens, self._had.get(segment.slot, {})
        assert not known.over, "somebody runs whom nobody wants"
        assert all(position in had for position in range(segment.position)), "a step on a hole"
        assert segment.wanted == (end == known.length and not known.following)
        assert end <= known.length - known.following <= segment.room
        if segment.wanted:
            assert segment.slot in self._started
            for position in range(segment.position):
                expected = text(known.number, position, position + 1)[0], known.encoded(position, self._renewal)
                assert had[position] == expected, f"{position} of {known.length} is not as it would be"

    def _have(self, known: Asked, first: int, end: int, whole: int) -> None:
        had = self._had.setdefault(known.slot, {})
        for position, token in enumerate(text(known.number, first, end), first):
            had[position] = token, max(position + 1, whole)

    def _next(self, segment: Segment) -> int:
        end = segment.position + segment.tokens
        return text(self._by_slot[segment.slot].number, end, end + 1)[0]

    def _look(self) -> None:
        self._hear(self.batching.take_news())
        ended = self.batching.take_ended()
        self._ended += ended
        under_way = {segment.slot for step in self._under_way for segment in step.segments}
        assert not under_way & set(ended), "a slot that is under way has ended"
        assert 0 <= self.batching.used_tokens <= self._kv_tokens
        for name, known in self.asked.items():
            placed = self.batching.place(name)
            assert placed.slot in (None, known.slot)
            had = self._had.get(known.slot, {})
            assert all(position in had for position in range(placed.held_tokens))
            assert not (known.over and placed.slot)

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            known = self.asked[event.request]
            assert not known.over, "somebody hears of what is over"
            if isinstance(event, Tokens):
                assert not known.following
                new = text(known.number, known.length, known.length + len(event.tokens))
                assert event.tokens == new, "every token, and once"
                known.length += len(new)
                expected = "stop" if known.stops else "length" if not known.left else None
                assert event.finish == expected
                known.over = event.finish or ""
            elif isinstance(event, Caught):
                segments = [s for step in self._under_way for s in step.segments if s.slot == known.slot]
                assert known.following
                assert not segments
                assert set(self._had.get(known.slot, {})) >= set(range(known.length - 1))
                assert known.caught < event.tokens == known.length
                known.caught = event.tokens
            elif isinstance(event, Yielded):
                assert known.yields
                known.over = "yielded"
            else:
                assert isinstance(event, Rejected)
                known.over = "rejected"
            self.told.append(event)
