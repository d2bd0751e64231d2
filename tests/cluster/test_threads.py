"""How many threads compute: what is chosen on machines that are played, as seconds that their steps take."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from cluster.stage.main import crewed
from cluster.stage.stepping.threads import COST, Crew, ThreadChoice, numbers_of_threads

_WORK_S, _SERIAL_S = 0.036, 0.009


def _machine(free: int) -> Callable[[int], float]:
    """Seconds of a step of one token by so many threads, where `free` cores have nothing else to do: those who share a core
    are waited for by all, as two threads beside a busy process took 0.145 s, one 0.027, and two on a quiet machine 0.0195."""
    return lambda threads: (_SERIAL_S + _WORK_S / threads) * (1 if threads <= free else 4)


class _Played:
    """Steps of one size on a machine; `numbers` of threads and `seconds` of all that were computed."""

    def __init__(self, most: int, tokens: int = 1) -> None:
        self.choice, self.tokens = ThreadChoice(most), tokens
        self.numbers: list[int] = []
        self.seconds = 0.0

    def step(self, seconds_of: Callable[[int], float]) -> None:
        number = self.choice.choose(self.tokens)
        self.choice.learn(self.tokens, seconds_of(number))
        self.numbers.append(number)
        self.seconds += seconds_of(number)

    def run(self, seconds_of: Callable[[int], float], seconds: float) -> None:
        until_s = self.seconds + seconds
        while self.seconds < until_s:
            self.step(seconds_of)

    def taken(self, last: int = 20) -> int:
        """What most of the last steps were computed by."""
        return Counter(self.numbers[-last:]).most_common(1)[0][0]


def test_all_threads_are_tried_on_a_small_machine_and_all_but_one_on_a_large_one() -> None:
    assert [numbers_of_threads(most) for most in (1, 2, 4)] == [(1,), (1, 2), (1, 2, 3, 4)]
    assert numbers_of_threads(16) == (1, 2, 3, 4, 6, 8, 12, 15, 16)


def test_beside_a_busy_process_one_of_two_threads_computes_from_the_seventh_step_on() -> None:
    played = _Played(2)
    for _ in range(20):
        played.step(_machine(1))
    assert played.numbers[0] == 2
    assert played.numbers[1:6:2] == [1, 1, 1], "each beside a step as before"
    assert played.taken(14) == 1


def test_a_process_that_comes_later_is_noticed_by_the_steps_it_makes_slower() -> None:
    """Not when patience ends: five seconds would be more than thirty steps."""
    played = _Played(2)
    played.run(_machine(2), 25.0)
    began = len(played.numbers)
    for _ in range(12):
        played.step(_machine(1))
    assert played.numbers[began + 6 :] == [1] * 6, "and two, that were given up just now, are not tried again at once"


def test_when_the_process_is_gone_all_threads_compute_again() -> None:
    played = _Played(2)
    played.run(_machine(1), 30.0)
    assert played.taken() == 1
    played.run(_machine(2), 10.0)
    assert played.taken() == 2


@pytest.mark.parametrize(("before", "free"), [(2, 2), (1, 1), (2, 1)])
def test_tries_take_no_more_of_the_time_than_is_said(before: int, free: int) -> None:
    """Of a quiet machine, and of one where each try of the second thread takes four times as long."""
    played = _Played(2)
    played.run(_machine(before), 50.0)
    played.run(_machine(free), 0.9)
    played.numbers, played.seconds = [], 0.0
    played.run(_machine(free), 50.0)
    ones_s, twos_s = map(_machine(free), (1, 2))
    lost_s = played.seconds - min(ones_s, twos_s) * len(played.numbers)
    assert 0 < lost_s <= COST * played.seconds + abs(ones_s - twos_s)


def test_on_a_quiet_machine_a_thread_less_is_tried_no_more_than_every_five_seconds() -> None:
    played = _Played(2)
    played.run(_machine(2), 100.0)
    assert 10 <= played.numbers.count(1) <= 21


def test_steps_that_vary_by_a_tenth_lose_no_thread() -> None:
    chance = random.Random(4)
    played = _Played(2)
    played.run(lambda threads: _machine(2)(threads) * chance.uniform(0.9, 1.1), 300.0)
    assert played.numbers.count(2) / len(played.numbers) > 0.99


def test_one_try_that_happens_to_be_quick_decides_nothing() -> None:
    played = _Played(2)
    played.step(_machine(2))
    assert played.choice.choose(1) == 1
    played.choice.learn(1, 0.01)
    played.step(_machine(2))
    for seconds in (0.045, 0.045):
        assert played.choice.choose(1) == 1
        played.choice.learn(1, seconds)
        played.step(_machine(2))
        assert played.numbers[-1] == 2
    played.run(_machine(2), 1.0)
    assert played.taken() == 2


def test_a_gain_that_is_hardly_one_changes_nothing() -> None:
    played = _Played(2)
    played.run(lambda threads: 0.020 if threads == 2 else 0.0195, 60.0)
    assert played.taken() == 2


@pytest.mark.parametrize(("free", "taken"), [(16, 16), (15, 15), (8, 8), (3, 3)])
def test_a_large_machine_loses_as_many_threads_as_it_has_lost_cores(free: int, taken: int) -> None:
    played = _Played(16)
    played.run(_machine(free), 20.0)
    assert played.taken() == taken
    played.run(_machine(16), 300.0)
    assert _machine(16)(played.taken()) < 1.06 * _machine(16)(16), "the last threads bring less than is looked at"


def test_where_one_thread_less_is_no_better_more_are_given_up() -> None:
    """With eight of sixteen cores lost, fifteen and twelve threads are as slow as sixteen. All is tried without a pause."""

    def seconds_of(threads: int) -> float:
        return 0.020 if threads <= 8 else 0.080

    played = _Played(16)
    played.run(seconds_of, 6.0)
    assert played.taken() <= 8


def test_a_prompt_is_computed_by_all_threads_while_decoding_takes_one() -> None:
    choice, numbers = ThreadChoice(2), {1: 0, 256: 0}
    for _ in range(100):
        for tokens, free in ((1, 1), (256, 2)):
            numbers[tokens] = choice.choose(tokens)
            choice.learn(tokens, _machine(free)(numbers[tokens]))
    assert numbers == {1: 1, 256: 2}


def test_steps_of_unlike_lengths_are_not_compared() -> None:
    """A prompt of 40 tokens after one of 120 takes a third of its time, whatever computes it."""
    choice = ThreadChoice(2)
    for tokens in (120, 40) * 20:
        assert choice.choose(tokens) == 2
        choice.learn(tokens, tokens * 1e-3)


@pytest.mark.parametrize(("before", "after"), [((100, 0.100), (120, 0.102)), ((14, 0.030), (14, 0.027))])
def test_steps_of_nearly_one_length_are_compared(before: tuple[int, float], after: tuple[int, float]) -> None:
    """Long ones by what a token takes."""
    assert _after_tries(before, after) == 1


@pytest.mark.parametrize(("before", "after"), [((100, 0.100), (85, 0.086)), ((14, 0.030), (17, 0.030))])
def test_steps_that_are_quicker_by_being_shorter_prove_nothing(
    before: tuple[int, float], after: tuple[int, float]
) -> None:
    """Nor do short steps that last no longer with a few tokens more."""
    assert _after_tries(before, after) == 2


def _after_tries(before: tuple[int, float], after: tuple[int, float]) -> int:
    """Threads that are taken when steps of two have the tokens and seconds of `before`, and those of one of `after`."""
    choice = ThreadChoice(2)
    for _ in range(3):
        for tokens, seconds in (before, after):
            choice.choose(tokens)
            choice.learn(tokens, seconds)
    return choice.choose(before[0])


def test_a_machine_that_stood_still_during_a_try_is_tried_again_within_a_minute_of_steps() -> None:
    played = _Played(2)
    played.run(_machine(1), 20.0)
    assert played.taken() == 1
    while played.choice.choose(1) == 1:
        played.choice.learn(1, _machine(1)(1))
    played.choice.learn(1, 3600.0)
    played.run(_machine(2), 65.0)
    assert played.taken() == 2


def test_one_thread_is_all_that_there_is() -> None:
    played = _Played(1)
    played.run(_machine(1), 10.0)
    assert set(played.numbers) == {1}


# ---- around a stage's steps


class _Watched:
    """A pulse and a clock; `told` is all that happens."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.now_s = 0.0

    def step(self, tokens: int) -> None:
        self.told.append(f"step of {tokens}")

    def rest(self) -> None:
        self.told.append("rest")

    def set_threads(self, number: int) -> None:
        self.told.append(f"{number} threads")

    def clock(self) -> float:
        return self.now_s


def test_threads_are_set_before_a_step_and_learned_from_after_it() -> None:
    """But not from the first, which waits for units."""
    watched = _Watched()
    crew = Crew(watched, ThreadChoice(2), watched.clock, watched.set_threads)
    for seconds in (30.0, 0.2, 0.05):
        crew.step(1)
        watched.now_s += seconds
        crew.rest()
    around = ["step of 1", "rest"]
    assert watched.told == ["2 threads", *around, "2 threads", *around, "1 threads", *around]


def test_a_stage_with_one_thread_or_a_gpu_computes_as_it_is() -> None:
    watched = _Watched()
    cpu = torch.device("cpu")
    assert crewed(watched, cpu, 1) is watched
    assert crewed(watched, torch.device("cuda", 0), 8) is watched
    assert isinstance(crewed(watched, cpu, 2), Crew)


def test_a_stage_is_computed_by_the_threads_that_were_chosen() -> None:
    before = torch.get_num_threads()
    watched = _Watched()
    crew = Crew(watched, ThreadChoice(1))
    try:
        torch.set_num_threads(2)
        crew.step(1)
        crew.rest()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
