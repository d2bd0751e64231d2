"""Choosing a batch's tokens on the logits' device: the very tokens that each request's sampler chooses alone."""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.stage.choosing import batch
from cluster.stage.choosing.batch import Chooser, Pending, chooser_on
from cluster.stage.choosing.penalties import Ledger
from cluster.stage.choosing.sampling import Sampler
from cluster.stage.choosing.tables import tabulate
from cluster.stage.choosing.trips import Trips, cuda_trips
from cluster.stage.steps import Choice
from cluster.wire.requests import Sampling
from tests.device import DEVICE

pytestmark = pytest.mark.gpu
_CPU = torch.device("cpu")
_GREEDY = Sampling(temperature=0.0)
_SEEDS = st.integers(0, 2**32 - 1)
_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(0.0, 2.0),
    top_p=st.just(1.0) | st.floats(0.0, 1.0),
    top_k=st.just(0) | st.integers(0, 40) | st.integers(0, 2100),
    seed=st.integers(-(2**63), 2**63 + 15),
    presence_penalty=st.just(0.0) | st.floats(-2, 2),
    frequency_penalty=st.just(0.0) | st.floats(-2, 2),
    repetition_penalty=st.just(1.0) | st.floats(0.0, 2.0),
    min_p=st.just(0.0) | st.floats(0.0, 1.0),
    logit_bias=st.lists(st.tuples(st.integers(0, 25), st.floats(-100, 100)), max_size=3, unique_by=lambda b: b[0]).map(
        tuple
    ),
    logprobs=st.none() | st.integers(0, 20),
)


class _Mark:
    def __init__(self) -> None:
        self.reached = False

    def synchronize(self) -> None:
        self.reached = True


class _Host:
    """What stands for pinned memory and a device's events."""

    def __init__(self) -> None:
        self.buffers: list[torch.Tensor] = []
        self.marks: list[_Mark] = []

    def allocate(self, size_bytes: int) -> torch.Tensor:
        self.buffers.append(torch.empty(size_bytes, dtype=torch.uint8))
        return self.buffers[-1]

    def mark(self) -> _Mark:
        self.marks.append(_Mark())
        return self.marks[-1]

    def trips(self) -> Trips:
        return Trips(_CPU, self.allocate, self.mark)


class _OnDevice(Chooser):
    """Brings logits to where it chooses."""

    def begin_choices(self, samplers: Sequence[Sampler], logits: torch.Tensor, positions: Sequence[int]) -> Pending:
        return super().begin_choices(samplers, logits.to(DEVICE), positions)


def _chooser(ledger_bytes: int = 1 << 20, look: int = 1024) -> Chooser:
    trips = _Host().trips() if DEVICE.type == "cpu" else cuda_trips(DEVICE)
    return _OnDevice(trips, ledger_bytes, look)


def _rows(generator: torch.Generator, rows: int, vocabulary: int, kind: str) -> torch.Tensor:
    """Logits of a kind, with equals, with -inf, in bfloat16; some of no use."""
    logits = torch.randn(rows, vocabulary, generator=generator) * 4
    if kind == "equals":
        logits = logits.round()
    if kind == "steep":
        logits = logits * 20
    if kind == "barred":
        logits[torch.rand(rows, vocabulary, generator=generator) < 0.6] = -torch.inf
    if kind == "broken":
        logits[torch.rand(rows, vocabulary, generator=generator) < 0.3 / vocabulary] = torch.nan
        logits[torch.rand(rows, vocabulary, generator=generator) < 0.3 / vocabulary] = torch.inf
    return logits.bfloat16() if kind == "bfloat16" else logits


def _assert_same(choices: Sequence[Choice], expected: Sequence[Choice]) -> None:
    """The same tokens; of log probabilities that are equal any may be told."""
    assert [choice.token for choice in choices] == [choice.token for choice in expected]
    for choice, other in zip(choices, expected, strict=True):
        assert (choice.logprobs is None) == (other.logprobs is None)
        if choice.logprobs is None or other.logprobs is None:
            continue
        assert choice.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-5)
        told, known = choice.logprobs.top, other.logprobs.top
        assert [value for _, value in told] == pytest.approx([value for _, value in known], abs=1e-5)
        assert len({token for token, _ in told}) == len(told)


_KINDS = st.sampled_from(["plain", "equals", "steep", "barred", "broken", "bfloat16"])
_REQUESTS = st.lists(st.tuples(_SAMPLINGS | st.just(_GREEDY), st.integers(0, 8)), min_size=1, max_size=6)


@given(
    _REQUESTS, st.integers(1, 60) | st.integers(1, 2000), _KINDS, _SEEDS, st.sampled_from([4, 32, 1024]),
    st.sampled_from([0, 25_000, 1 << 20]),
)  # fmt: skip
@settings(max_examples=250)
def test_a_batch_gets_what_each_request_gets_alone(
    requests: list[tuple[Sampling, int]], vocabulary: int, kind: str, seed: int, look: int, ledger_bytes: int
) -> None:
    """Over steps in which requests come and go; whatever look is enough and however many the ledger has places for."""
    generator = torch.Generator().manual_seed(seed)
    chooser = _chooser(ledger_bytes, look)
    prompt, generated = [0, vocabulary - 1], [vocabulary // 2] * 2
    stops = [0, 1, vocabulary, 2**62]
    together, alone = (
        [Sampler(sampling, prompt, generated, stops, 100 + stops_from) for sampling, stops_from in requests]
        for _ in range(2)
    )
    for step in range(6):
        here = [index for index in range(len(requests)) if index % 3 != step % 4]
        if not here:
            continue
        logits = _rows(generator, len(here), vocabulary, kind)
        positions = [100 + step + index for index in here]
        pending = chooser.begin_choices([together[index] for index in here], logits.clone(), positions)
        expected = [alone[i].choose(row, at) for i, row, at in zip(here, logits, positions, strict=True)]
        _assert_same(pending.result(), expected)
        if step == 3:
            chooser.forget(together[0])
    assert [sampler.counts for sampler in together] == [sampler.counts for sampler in alone]


_SETS = (
    Sampling(), Sampling(temperature=1.7), Sampling(top_k=1), Sampling(top_k=30), Sampling(top_k=60), Sampling(top_p=0.1),
    Sampling(top_p=0.6), Sampling(top_p=0.95), Sampling(top_k=30, top_p=0.6), Sampling(min_p=0.5),
    Sampling(top_k=30, min_p=0.6), Sampling(top_p=0.6, min_p=0.6), Sampling(top_k=30, top_p=0.9, min_p=0.4),
    Sampling(top_p=0.6, presence_penalty=0.5), Sampling(top_k=20, repetition_penalty=1.3),
)  # fmt: skip
"""Each leaves something of a flat distribution, and takes something away."""


@pytest.mark.parametrize("samplings", [*([sampling] for sampling in _SETS), _SETS])
@pytest.mark.parametrize("look", [50, 1024])
def test_many_draws_are_those_of_each_alone(samplings: Sequence[Sampling], look: int) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(90, 120, generator=generator) / 2
    chosen = [replace(samplings[row % len(samplings)], seed=row) for row in range(len(logits))]
    together, alone = ([Sampler(sampling, [1, 2, 3], [4, 4, 5]) for sampling in chosen] for _ in range(2))
    chooser = _chooser(look=look)
    for position in range(3):
        choices = chooser.begin_choices(together, logits, [position] * len(chosen)).result()
        assert choices == [sampler.choose(row, position) for sampler, row in zip(alone, logits, strict=True)]


def test_of_tokens_none_of_which_may_come_the_first_does() -> None:
    """As alone: one cannot come, the other may not yet."""
    logits = torch.tensor([[-torch.inf, 5.0]])
    sampler, alone = (Sampler(_GREEDY, [], [], [1], 10) for _ in range(2))
    assert _chooser().begin_choices([sampler], logits, [0]).result() == [alone.choose(logits[0], 0)] == [Choice(0)]


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20), _SAMPLINGS, st.integers(0, 10**6))
@example([0.0, 1.0, 1e-30, 2e-30], Sampling(top_k=3, seed=1), 0)
def test_logits_that_differ_by_less_than_their_weights_are_equals(
    row: list[float], sampling: Sampling, position: int
) -> None:
    logits = torch.tensor(row)
    expected = [Sampler(sampling, [], []).choose(logits, position + at) for at in range(20)]
    batched = [Sampler(sampling, [], []) for _ in range(20)]
    pending = _chooser(look=8).begin_choices(batched, logits.expand(20, -1), range(position, position + 20))
    _assert_same(pending.result(), expected)


@given(st.integers(1, 30), st.floats(0.05, 0.99), st.integers(1, 40), _SEEDS)
def test_where_many_are_equal_those_of_lower_number_come_first(
    values: int, top_p: float, top_k: int, seed: int
) -> None:
    """Whatever order the device finds them in; and where the look ends among equals, it is not relied on."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, values, (3, 200), generator=generator).float()
    for sampling in (
        Sampling(top_k=top_k, seed=seed),
        Sampling(top_p=top_p, seed=seed),
        Sampling(top_k=top_k, top_p=top_p),
    ):
        expected = [Sampler(sampling, [], []).choose(row, 3) for row in logits]
        pending = _chooser(look=50).begin_choices([Sampler(sampling, [], []) for _ in logits], logits, [3] * 3)
        assert pending.result() == expected


@given(st.lists(_SAMPLINGS, min_size=1, max_size=4), _SEEDS)
def test_a_draw_depends_on_seed_and_position_whatever_else_is_in_the_batch(
    samplings: list[Sampling], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(samplings) + 1, 50, generator=generator)
    one = Sampling(seed=seed)
    alone = _chooser().begin_choices([Sampler(one, [], [])], logits[-1:], [7]).result()
    samplers = [Sampler(sampling, [], []) for sampling in (*samplings, one)]
    assert _chooser().begin_choices(samplers, logits, [*range(len(samplings)), 7]).result()[-1:] == alone


def test_tokens_come_as_often_as_their_probability_says_over_a_large_vocabulary() -> None:
    """Sixteen blocks of tokens, of which two hold all that is likely. Chi-square with 3 degrees: 25 comes once in 60,000."""
    logits = torch.full((1, 8000), -60.0)
    likely = {3: 0.4, 511: 0.3, 512: 0.2, 7999: 0.1}
    for token, probability in likely.items():
        logits[0, token] = torch.tensor(probability).log()
    chooser, count = _chooser(), 2000
    samplers = [Sampler(Sampling(seed=seed), [], []) for seed in range(count)]
    drawn = [choice.token for choice in chooser.begin_choices(samplers, logits.expand(count, -1), [0] * count).result()]
    assert set(drawn) == set(likely)
    assert sum((drawn.count(token) - p * count) ** 2 / (p * count) for token, p in likely.items()) < 25


# ---- what is asked of the device


class _Meta:
    """A device that holds no numbers: whoever looks at one, or mixes in what is on the host, fails."""

    def __init__(self) -> None:
        self.sent, self.fetched = 0, 0

    def start(self) -> "_Meta":
        return self

    def send(self, parts: Sequence[np.ndarray]) -> torch.Tensor:
        self.sent += 1
        return torch.empty(sum(part.size for part in parts), dtype=torch.float64, device="meta")

    def fetch(self, answer: torch.Tensor) -> None:
        assert answer.device.type == "meta"
        self.fetched += 1


_EVERYTHING = (
    Sampling(seed=1), Sampling(top_p=0.9), Sampling(top_k=5, min_p=0.1), Sampling(min_p=0.2), Sampling(top_k=100),
    Sampling(presence_penalty=0.5, logit_bias=((3, 1.0),)), replace(_GREEDY, repetition_penalty=1.1),
    replace(_GREEDY, logprobs=5), Sampling(frequency_penalty=0.1, logprobs=0),
)  # fmt: skip


@pytest.mark.parametrize("samplings", [[_GREEDY] * 3, _EVERYTHING, *([sampling] for sampling in _EVERYTHING)])
def test_a_step_is_one_copy_there_and_one_back_and_nothing_is_looked_at(samplings: Sequence[Sampling]) -> None:
    device = _Meta()
    chooser = Chooser(device, look=50)
    samplers = [Sampler(sampling, [1, 2], [3], [0, 4], 12) for sampling in samplings]
    logits = torch.empty(len(samplings), 300, dtype=torch.bfloat16, device="meta")
    for position in (10, 11, 12):
        chooser.begin_choices(samplers, logits, [position] * len(samplings))
    greedy = all(sampling == _GREEDY for sampling in samplings)
    assert device.sent == (2 if greedy else 3), "who is greedy needs nothing once stops may come"
    assert device.fetched == 3


def test_buffers_are_used_again_and_only_after_the_device_is_done_with_them() -> None:
    host = _Host()
    chooser = Chooser(host.trips())
    logits = torch.zeros(2, 5)
    first = [Sampler(Sampling(seed=seed), [], []) for seed in range(2)]
    second = [Sampler(Sampling(seed=seed), [], []) for seed in range(2)]
    under_way = [chooser.begin_choices(samplers, logits, [0, 0]) for samplers in (first, second)]
    assert len(host.buffers) == 4, "neither of two that are under way has the other's"
    assert not any(mark.reached for mark in host.marks)
    for pending in under_way:
        pending.result()
    assert all(mark.reached for mark in host.marks)
    for position in range(1, 20):
        chooser.begin_choices(first, logits, [position] * 2).result()
    assert len(host.buffers) == 4


def test_on_a_gpu_whoever_waits_sleeps_until_the_devices_own_stream_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MagicMock] = []
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: made.append(MagicMock(blocking=blocking)) or made[-1])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(
        torch, "empty", lambda size, dtype, pin_memory: torch.zeros(size, dtype=dtype) if pin_memory else None
    )
    trip = cuda_trips(torch.device("cuda", 1)).start()
    trip.fetch(torch.tensor([[3], [5]]))
    (event,) = made
    assert event.blocking
    event.record.assert_called_once_with("the stream of cuda:1")
    assert trip.wait() == [[3], [5]]
    event.synchronize.assert_called_once()


def test_the_answer_is_given_once() -> None:
    pending = _chooser().begin_choices([Sampler(_GREEDY, [], [])], torch.zeros(1, 3), [0])
    pending.result()
    with pytest.raises(AssertionError, match="nothing was asked for"):
        pending.result()


def test_the_logits_may_be_overwritten_before_the_answer_is_taken() -> None:
    """Also of those whose token is not found at once, or is chosen by the host: the ledger has no place."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)) / 10
    samplings = (Sampling(top_p=0.99, seed=1), Sampling(seed=2), Sampling(seed=3, presence_penalty=1.0))
    expected = [Sampler(sampling, [], []).choose(row, 0) for sampling, row in zip(samplings, logits, strict=True)]
    pending = _chooser(0, look=4).begin_choices([Sampler(sampling, [], []) for sampling in samplings], logits, [0] * 3)
    logits.zero_()
    assert pending.result() == expected


def test_on_a_cpu_tokens_are_chosen_at_once() -> None:
    sampler = Sampler(_GREEDY, [], [])
    pending = chooser_on(_CPU).begin_choices([sampler], torch.tensor([[0.0, 2.0]]), [0])
    assert sampler.counts == {1: 1}
    assert pending.result() == [Choice(1)]


class _OnTheDevice(Sampler):
    """Whose token the host is not to choose."""

    def choose(self, logits: torch.Tensor, position: int) -> Choice:
        raise AssertionError("the row came to the host")


def test_rows_that_a_short_look_does_not_decide_are_looked_at_again_on_the_device_few_at_a_time() -> None:
    host = _Host()
    logits = torch.randn(20, 100, generator=torch.Generator().manual_seed(3)) / 2
    samplings = [Sampling(top_p=0.9, seed=row) for row in range(10)] + [
        Sampling(top_k=30, seed=row) for row in range(10)
    ]
    samplers = [_OnTheDevice(replace(sampling, logprobs=1), [], []) for sampling in samplings]
    choices = Chooser(host.trips(), look=20).begin_choices(samplers, logits, [0] * 20).result()
    assert [choice.token for choice in choices] == [_token(*of) for of in zip(samplings, logits, strict=True)]
    own = torch.log_softmax(logits, -1)
    assert all(
        choice.logprobs.logprob == pytest.approx(float(row[choice.token]))
        for choice, row in zip(choices, own, strict=True)
    )
    assert len(host.marks) == 4, "eight rows, eight, and four, after all at once"


def _token(sampling: Sampling, logits: torch.Tensor) -> int | None:
    return Sampler(sampling, [], []).choose(logits, 0).token


def test_where_a_look_ends_among_what_cannot_come_it_decides() -> None:
    """Of 30 that top_k leaves only 3 may come."""
    host = _Host()
    logits = torch.full((1, 100), -torch.inf)
    logits[0, [5, 50, 99]] = 1.0
    sampler = Sampler(Sampling(top_k=30, seed=3), [], [])
    (choice,) = Chooser(host.trips(), look=40).begin_choices([sampler], logits, [0]).result()
    assert choice.token in (5, 50, 99)
    assert len(host.marks) == 1


def test_parameters_are_tabulated_once_for_a_batch_and_few_batches_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tabulated: list[Sequence[Sampler]] = []
    monkeypatch.setattr(
        batch, "tabulate", lambda samplers, *rest: tabulated.append(samplers) or tabulate(samplers, *rest)
    )
    chooser, logits = _chooser(), torch.zeros(1, 5)
    samplers = [Sampler(Sampling(), [], []) for _ in range(20)]
    for position in range(3):
        for sampler in samplers[:4]:
            chooser.begin_choices([sampler], logits, [position]).result()
    assert len(tabulated) == 4
    for sampler in samplers:
        chooser.begin_choices([sampler], logits, [3]).result()
    assert len(tabulated) == 20
    chooser.begin_choices(samplers[:1], logits, [4]).result()
    assert len(tabulated) == 21


def test_who_is_over_is_forgotten_entirely() -> None:
    chooser = _chooser()
    sampler = Sampler(Sampling(presence_penalty=1.0), [], [])
    there = weakref.ref(sampler)
    chooser.begin_choices([sampler], torch.zeros(1, 5), [0]).result()
    chooser.forget(sampler)
    del sampler
    gc.collect()
    assert there() is None


# ---- the penalties' places


def test_the_ledger_keeps_to_its_room_and_gives_places_back() -> None:
    ledger = Ledger(room_bytes=5 * 10 * 2 + 49, vocabulary=10, device=_CPU)
    samplers = [Sampler(Sampling(presence_penalty=1.0), [], []) for _ in range(3)]
    places = [ledger.place(sampler) for sampler in samplers]
    assert places[2] == (None, False)
    assert ledger.place(samplers[0]) == (places[0][0], False)
    ledger.forget(samplers[0])
    ledger.forget(samplers[2])
    assert ledger.place(samplers[2]) == (places[0][0], True)


def test_memory_for_penalties_is_taken_when_the_first_request_has_one_and_never_more_than_was_given() -> None:
    chooser = _chooser(ledger_bytes=5 * 100 * 3 + 1)
    logits = torch.zeros(1, 100)
    chooser.begin_choices([Sampler(Sampling(), [], [])], logits, [0]).result()
    assert chooser.ledger_bytes == 0
    for _ in range(5):
        chooser.begin_choices([Sampler(Sampling(presence_penalty=1.0), [], [])], logits, [0]).result()
    assert chooser.ledger_bytes == 5 * 100 * 3


def test_who_takes_a_place_finds_nothing_of_who_had_it() -> None:
    chooser = _chooser(ledger_bytes=5 * 4)
    sampling = replace(_GREEDY, repetition_penalty=2.0, presence_penalty=5.0)
    logits = torch.tensor([[2.0, 1.5, 1.4, 1.3]])
    first, second = Sampler(sampling, [0, 1], []), Sampler(sampling, [3], [2])
    assert chooser.begin_choices([first], logits, [2]).result() == [Choice(2)]
    chooser.forget(first)
    assert chooser.begin_choices([second], logits, [2]).result() == [Choice(0)]
    assert chooser.begin_choices([second], logits, [3]).result() == [Choice(1)]


def test_what_was_chosen_at_a_second_look_counts_too() -> None:
    """First top_p is out of the first look's reach; then what was chosen would come again."""
    sampler = Sampler(Sampling(top_p=0.9, presence_penalty=100.0, seed=5), [], [])
    chooser = _chooser(look=8)
    (first,) = chooser.begin_choices([sampler], torch.zeros(1, 40), [0]).result()
    logits = torch.full((1, 40), -100.0)
    logits[0, first.token], logits[0, first.token - 1] = 50.0, 40.0
    (second,) = chooser.begin_choices([sampler], logits, [1]).result()
    assert second.token == (first.token - 1) % 40
