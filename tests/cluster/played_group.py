"""A group that is played: it asks for steps, answers them, and holds everything that it is told against what must be.

The token of request i at position p is i * 100,000 + p, in prompts and answers alike: whatever is fed tells whose it is
and where it stands.
"""

from collections import deque
from collections.abc import Sequence

from cluster.stage.batching import Batching
from cluster.stage.steps import MAX_ROWS, PREFILL_TOKENS, PREFILL_TOKENS_ALONE, Choice, Segment, Step
from cluster.wire.requests import Rejected, Sampling, Submit, Tokens

_APART = 100_000


def text(number: int, start: int, end: int) -> tuple[int, ...]:
    """Tokens [start, end) of request `number`, prompt and answer in one count."""
    return tuple(range(number * _APART + start, number * _APART + end))


def ask(number: int, prompt: int = 3, max_tokens: int = 4, generated: int = 0, stop_at: int | None = None) -> Submit:
    """Request "r{number}", which has `generated` tokens already; the `stop_at`-th new token, from 0, is a stop token."""
    known = prompt + generated
    stops = () if stop_at is None else text(number, known + stop_at, known + stop_at + 1)
    return Submit(f"r{number}", text(number, 0, known), prompt, max_tokens, stops, Sampling(temperature=0.0))


def expected(submit: Submit) -> tuple[int, ...]:
    """All that the request is to be given."""
    first = submit.tokens[-1] + 1
    whole = tuple(range(first, first + submit.max_tokens))
    stops = [index for index, token in enumerate(whole) if token in submit.stop_tokens]
    return whole[: stops[0] + 1] if stops else whole


class PlayedGroup:
    """Steps land when told to. `taken` are all steps so far, `names` and `ended` the slots that ran and that are over."""

    def __init__(self, kv_tokens: int = 100_000, stages: int = 1, renewal: int | None = None) -> None:
        self.batching = Batching(kv_tokens, stages, renewal)
        self.taken: list[Step] = []
        self.finishes: dict[str, str] = {}
        self.names: dict[int, str] = {}
        self.ended: list[int] = []
        self._kv_tokens, self._stages, self._renewal = kv_tokens, stages, renewal
        self._under_way: deque[Step] = deque()
        self._asked: list[str] = []
        self._submits: dict[int, Submit] = {}
        self._fed: dict[int, int] = {}
        self._rooms: dict[int, int] = {}
        self._cancelled: set[int] = set()
        self._texts: dict[int, tuple[int, ...]] = {}
        self._ready_since: dict[int, tuple[int, int]] = {}

    @property
    def texts(self) -> dict[str, tuple[int, ...]]:
        """What each request was given; of those of one name the last."""
        return {self.names[slot]: given for slot, given in self._texts.items()}

    def submit(self, *submits: Submit) -> list[Rejected]:
        """Those that are refused are returned."""
        answers = {submit.request: self.batching.submit(submit) for submit in submits}
        self._asked += [name for name, rejected in answers.items() if rejected is None]
        self._look()
        return [rejected for rejected in answers.values() if rejected is not None]

    def cancel(self, name: str) -> None:
        """From here on nothing of the request may be fed or given out."""
        self.batching.cancel(name)
        self._cancelled |= {slot for slot, known in self.names.items() if known == name}
        self._asked = [asked for asked in self._asked if asked != name]
        self._look()

    def step(self) -> Step | None:
        """One more step, if there is one."""
        ready = [slot for slot in self._ready_since if slot not in self._cancelled]
        step = self.batching.next_step(lambda segment: (segment.room, segment.slot))
        if step is None:
            assert len(self._under_way) == self._stages or not ready, "a request is ready, and nothing runs it"
            return None
        for slot, submit in step.started:
            self.names[slot], self._submits[slot], self._fed[slot] = submit.request, submit, 0
            self._asked.remove(submit.request)
        self._check(step)
        self.taken.append(step)
        self._under_way.append(step)
        for segment in step.segments:
            self._fed[segment.slot] += segment.tokens
            self._ready_since.pop(segment.slot, None)
            if not segment.wanted:
                self._is_ready(segment.slot)
        self._look()
        return step

    def steps(self) -> list[Step]:
        """As many as can be under way."""
        found = []
        while (step := self.step()) is not None:
            found.append(step)
        return found

    def land(self) -> list[Tokens]:
        """The oldest step under way is over."""
        step = self._under_way.popleft()
        choices = [Choice(self._next_token(segment)) for segment in step.wanted]
        given = self.batching.land(choices)
        for tokens in given:
            self._take(tokens)
        self._look()
        return given

    def run(self) -> None:
        """Until everyone has everything."""
        while not self.batching.idle:
            self.steps()
            assert self._under_way, "requests are waiting, and nothing happens"
            self.land()
        assert not self._under_way
        assert self.batching.used_tokens == 0
        assert sorted(self.ended) == sorted({*self.ended, *self.names}), "a slot that started ends, and only once"

    def lengths(self) -> list[list[int]]:
        """Tokens of each segment of each step so far."""
        return [[segment.tokens for segment in step.segments] for step in self.taken]

    def wholes(self) -> list[list[int]]:
        """How many of each segment's request's tokens belong together, of each step so far."""
        return [[segment.whole for segment in step.segments] for step in self.taken]

    def who(self, step: Step) -> list[str]:
        """The requests of a step."""
        return [self.names[segment.slot] for segment in step.segments]

    def starts(self) -> list[str]:
        """Requests in the order in which they ran for the first time."""
        return [submit.request for step in self.taken for _, submit in step.started]

    def _next_token(self, segment: Segment) -> int:
        return self._submits[segment.slot].tokens[0] + segment.position + segment.tokens

    def _take(self, tokens: Tokens) -> None:
        (slot,) = [s for s, name in self.names.items() if name == tokens.request and s not in self._dead()]
        given = self._texts[slot] = self._texts.get(slot, ()) + tokens.tokens
        assert given == expected(self._submits[slot])[: len(given)]
        if tokens.finish is None:
            if self._renewal is not None and len(self._submits[slot].tokens) + len(given) == self._renewal + 1:
                self._fed[slot] = 0
            self._is_ready(slot)
        else:
            self.finishes[tokens.request] = tokens.finish

    def _is_ready(self, slot: int) -> None:
        others = len(self._asked) + sum(known not in self._dead() for known in self.names)
        self._ready_since[slot] = len(self.taken), others

    def _dead(self) -> set[int]:
        return self._cancelled | set(self.ended)

    def _look(self) -> None:
        """What holds at any time."""
        assert 0 <= self.batching.used_tokens <= self._kv_tokens
        assert self.batching.steps_under_way == len(self._under_way) <= self._stages
        self.ended += self.batching.take_ended()
        for slot in self.ended:
            self._ready_since.pop(slot, None)
        under_way = {segment.slot for step in self._under_way for segment in step.segments}
        assert not under_way & set(self.ended), "a slot that is under way has ended"
        held = sum(room for slot, room in self._rooms.items() if slot not in self.ended)
        assert held <= self.batching.used_tokens

    def _check(self, step: Step) -> None:
        slots = [segment.slot for segment in step.segments]
        assert 1 <= len(slots) == len(set(slots)) <= MAX_ROWS
        assert not set(slots) & self._dead(), "somebody runs whom nobody wants"
        at = 0
        for segment in step.segments:
            self._check_segment(segment, step.feed[at : at + segment.tokens])
            at += segment.tokens
        assert at == len(step.feed)
        decodes = [self._decodes(segment) for segment in step.segments]
        assert decodes == sorted(decodes, reverse=True)
        rows = [(s.room, s.slot) for s in step.segments if self._decodes(s)]
        assert rows == sorted(rows)
        prefill = sum(segment.tokens for segment in step.segments if not self._decodes(segment))
        assert prefill <= (PREFILL_TOKENS if any(decodes) else PREFILL_TOKENS_ALONE)

    def _check_segment(self, segment: Segment, feed: Sequence[int]) -> None:
        submit, slot = self._submits[segment.slot], segment.slot
        length = len(submit.tokens) + len(self._texts.get(slot, ()))
        assert segment.tokens >= 1
        assert segment.position == self._fed[slot]
        end = segment.position + segment.tokens
        assert segment.wanted == (end == length)
        assert end <= length
        first = submit.tokens[0] + segment.position
        assert tuple(feed) == tuple(range(first, first + segment.tokens))
        assert len(submit.tokens) + submit.max_tokens <= segment.room == self._rooms.setdefault(slot, segment.room)
        since, others = self._ready_since.get(slot, (len(self.taken), 1))
        assert len(self.taken) - since <= others, "overtaken again and again"

    def _decodes(self, segment: Segment) -> bool:
        return segment.tokens == 1 and segment.position > 0
