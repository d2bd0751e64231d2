"""Steps that are told to the device before their tokens are known: every request is given just what it would be without."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.stage.batching import Batching
from cluster.stage.engine import Driver
from cluster.stage.steps import Choice, Segment
from cluster.wire.requests import Cancel, Failed, Submit, Tokens
from tests.cluster.fake_stages import FakePending, texts_of

_STOP, _VOCABULARY = 5, 40
_Event = Tokens | Failed


@dataclass
class _Device:
    """Layers whose next token follows from all that the cache has of the request, so that a wrong one is seen for ever.

    It chooses at once, and sometimes wrongly: then the host corrects it. Some numbers are not finite.
    """

    ahead: bool
    seed: int
    wrong: float = 0.0
    cache: dict[int, dict[int, int]] = field(default_factory=dict)
    requests: dict[int, Submit] = field(default_factory=dict)
    unasked: int = 0
    told_ahead: int = 0
    out: int = 0

    def start(self, slot: int, submit: Submit) -> None:
        self.requests[slot] = submit

    def order(self, segment: Segment) -> tuple[int, int]:
        return segment.room, segment.slot

    def may_run_ahead(self, segments: Sequence[Segment]) -> bool:
        return self.ahead

    def step(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor:
        self.out += 1
        assert self.out <= 2, "more than one step runs ahead"
        self.told_ahead += self.out == 2
        tokens = iter(x[0].tolist())
        for segment in segments:
            had = self.cache.setdefault(segment.slot, {})
            for position in range(segment.position, segment.position + segment.tokens):
                assert position < segment.room
                had[position] = next(tokens)
        assert next(tokens, None) is None
        return x

    def begin_choices(self, segments: Sequence[Segment], logits: torch.Tensor) -> FakePending:
        tokens = [self._next(segment) for segment in segments]
        device = self
        chance = random.Random(f"{self.seed} {self.unasked}")
        self.unasked += 1
        wrong = [place for place in range(len(tokens)) if chance.random() < self.wrong]
        known = [0 if place in wrong or token is None else token for place, token in enumerate(tokens)]

        class Queued(FakePending):
            def result(self) -> list[Choice]:
                device.out -= 1
                self.unforeseen = wrong
                return self.choices

        return Queued([Choice(token) for token in tokens], torch.tensor(known))

    def forget(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.cache.pop(slot, None)
            self.requests.pop(slot, None)

    def _next(self, segment: Segment) -> int | None:
        had = self.cache[segment.slot]
        length = segment.position + segment.tokens
        history = [had[position] for position in range(length)]
        drawn = random.Random(f"{self.seed} {history}")
        return None if drawn.random() < 0.01 else drawn.randrange(_VOCABULARY)


def _run(
    asked: Sequence[tuple[int, int, int]], ahead: bool, seed: int, wrong: float = 0.0, kv_tokens: int = 2000,
    leaves: frozenset[int] = frozenset(), renewal: int | None = None,
) -> tuple[_Device, list[_Event]]:  # fmt: skip
    """Requests of (prompt, max tokens, when it comes: after so many events); those of `leaves` leave at their third."""
    device = _Device(ahead, seed, wrong)
    events: list[_Event] = []
    waiting = [
        (after, Submit(f"r{number}", tuple(range(1, prompt + 1)), prompt, most, (_STOP,)))
        for number, (prompt, most, after) in enumerate(asked)
    ]
    left = {submit.request for _, submit in waiting}

    def tell() -> None:
        while waiting and (waiting[0][0] <= len(events) or not running):
            running.add(waiting[0][1].request)
            driver.inbox.put(waiting.pop(0)[1])
        if not left:
            driver.inbox.put(None)

    def emit(given: Sequence[_Event]) -> None:
        for event in given:
            events.append(event)
            ended = isinstance(event, Failed) or event.finish is not None
            had = sum(other.request == event.request for other in events)
            if int(event.request[1:]) in leaves and had == 3 and not ended:
                driver.inbox.put(Cancel(event.request))
                ended = True
            if ended:
                left.discard(event.request)
                running.discard(event.request)
        tell()

    running: set[str] = set()
    driver = Driver(device, None, Batching(kv_tokens, 1, renewal), emit, 60.0)  # type: ignore[arg-type]
    tell()
    driver.run()
    return device, events


_ASKED = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 60)), min_size=1, max_size=8
)  # fmt: skip


@given(_ASKED, st.integers(0, 1000), st.sampled_from([0.0, 0.0, 0.1, 0.5]), st.sampled_from([150, 400, 2000]),
       st.frozensets(st.integers(0, 7), max_size=2), st.sampled_from([None, None, 20]))  # fmt: skip
def test_all_are_given_what_they_would_be_given_without(
    asked: Sequence[tuple[int, int, int]], seed: int, wrong: float, kv_tokens: int, leaves: frozenset[int],
    renewal: int | None,
) -> None:  # fmt: skip
    """Requests come and leave at any time, end by length, by a stop or by a number that is none, and wait for room."""
    asked = sorted(asked, key=lambda one: one[2])
    expected: dict[str, list[int]] = {}
    for number, one in enumerate(asked):
        _, alone = _run([(one[0], one[1], 0)], ahead=False, seed=seed, kv_tokens=2000, renewal=renewal)
        expected[f"r{number}"] = texts_of(alone).get("r0", [])
    device, events = _run(asked, True, seed, wrong, kv_tokens, leaves, renewal)
    texts = texts_of(events)
    for request, text in expected.items():
        given_text = texts.get(request, [])
        if int(request[1:]) in leaves:
            assert given_text == text[: len(given_text)]
        else:
            assert given_text == text
    assert leaves or device.cache == {}, "what ran is forgotten"
    assert device.out <= 1, "at most the last step, of requests that ended unforeseen, was not looked at"


def test_all_but_the_first_token_run_ahead_of_one_request() -> None:
    device, events = _run([(3, 12, 0)], ahead=True, seed=1)
    assert len(events) == 12
    assert device.told_ahead == 10, "the second token is fed when the first is known; the last follows nothing"


@pytest.mark.parametrize("ahead", [True, False])
def test_nothing_runs_ahead_unless_the_worker_may(ahead: bool) -> None:
    device, _ = _run([(3, 12, 0), (5, 9, 0)], ahead=ahead, seed=1)
    assert bool(device.told_ahead) is ahead


def test_who_comes_does_not_wait_for_a_row_of_steps() -> None:
    """With somebody waiting no step runs ahead: the next one has their prompt."""
    _, events = _run([(3, 30, 0), (4, 2, 5)], ahead=True, seed=3)
    first = next(index for index, event in enumerate(events) if event.request == "r1")
    assert first <= 8
