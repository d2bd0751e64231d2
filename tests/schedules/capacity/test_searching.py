"""The cheapest cluster is found, whatever is tried at once and in whatever order it is told."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.capacity.clusters import Cluster
from schedules.capacity.plan import Plan
from schedules.capacity.playing import try_out
from schedules.capacity.question import PlanQuestion
from schedules.capacity.search import Job, Searches
from schedules.capacity.searching import MOST_JOBS, Search
from schedules.capacity.trial import Trial
from tests.schedules.capacity.small import WANTED, asked, by_power, found, machine, played_as, priced
from tests.schedules.worlds import MB


def test_a_search_is_what_its_owners_know() -> None:
    search: Searches = Search(asked())
    assert not search.done
    assert search.progress[0] == 0
    with pytest.raises(ValueError, match="not over"):
        search.plan()


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 33, 100])
def test_the_fewest_machines_are_found_and_one_fewer_is_seen_to_miss(needed: int) -> None:
    question = asked(most_machines=128, attainment=1.0)
    plan = found(question, played_as(by_power({"small": 1.0}, needed)))
    assert plan.chosen is not None
    assert plan.chosen.cluster.machines == {"small": needed}
    counts = {trial.cluster.count for trial in plan.tried}
    assert {needed, *({needed - 1} if needed > 1 else ())} <= counts
    assert f"{needed} x small for ${needed}.00 an hour" in plan.sentence


POWER = {"a": 1.0, "b": 2.5, "c": 4.0}


@settings(max_examples=60, deadline=None)
@given(
    needed=st.floats(0.5, 14.0),
    prices=st.tuples(*[st.integers(1, 60)] * 2),
    most=st.integers(1, 5),
    power=st.floats(0.3, 4.0),
)
def test_it_is_the_cheapest_of_all_that_there_are(
    needed: float, prices: tuple[int, int], most: int, power: float
) -> None:
    question = asked(*priced(a=float(prices[0]), b=float(prices[1])), most_machines=most, attainment=0.99)
    served = by_power({"a": 1.0, "b": power}, needed)
    grid = [{"a": a, "b": b} for a, b in product(range(most + 1), repeat=2) if 1 <= a + b <= most]
    enough = [each for each in grid if served(Job("", Cluster(each))) >= 0.99]
    cheapest = min((prices[0] * each["a"] + prices[1] * each["b"] for each in enough), default=None)
    plan = found(question, played_as(served))
    assert (plan.chosen and plan.chosen.price_per_h) == cheapest


def test_it_is_the_cheapest_of_all_that_there_are_when_they_are_played() -> None:
    question = asked(
        machine("small", 1.0, 70 * MB), machine("large", 1.8, 130 * MB), most_machines=3,
        objectives=replace(WANTED, ttft_s=0.9), attainment=0.97,
    )  # fmt: skip
    grid = [{"small": a, "large": b} for a, b in product(range(4), repeat=2) if 1 <= a + b <= 3]
    trials = [try_out(question, Job(f"grid {each}", Cluster(each))) for each in grid]
    cheapest = min(trial.price_per_h for trial in trials if trial.attained >= 0.97)
    plan = found(question)
    assert plan.chosen is not None
    assert plan.chosen.price_per_h == cheapest > 1.0


def test_some_machines_of_another_type_may_be_cheaper() -> None:
    question = asked(*priced(a=10.0, b=3.0), most_machines=10, attainment=1.0)
    plan = found(question, played_as(by_power({"a": 4.0, "b": 1.0}, 9.0)))
    assert plan.chosen is not None
    assert plan.chosen.cluster.machines == {"a": 2, "b": 1}
    assert plan.chosen.name == "2 x a + 1 x b"


def test_where_one_machine_fewer_serves_more_it_is_found() -> None:
    shares = {9: 0.999, 8: 0.985, 7: 0.992, 6: 0.991, 5: 0.98}
    served = lambda job: shares.get(job.cluster.count, 0.999 if job.cluster.count > 9 else 0.5)  # noqa: E731
    plan = found(asked(most_machines=64), played_as(served), most_jobs=60)
    assert plan.chosen is not None
    assert plan.chosen.attained >= 0.95
    assert all(trial.attained < 0.95 for trial in plan.tried if trial.price_per_h < plan.chosen.price_per_h)


@cache
def truth() -> Plan:
    """Of jobs that are done one after the other."""
    return found(*_mixed_question())


def _mixed_question() -> tuple[PlanQuestion, Callable[[PlanQuestion, Job], Trial]]:
    question = asked(*priced(a=10.0, b=3.0, c=22.0), most_machines=40, dram_shares=(1.0, 0.5, 0.25))
    return question, played_as(_noisy)


def _noisy(job: Job) -> float:
    """Of what nothing can be read off."""
    power = sum(POWER[name] * count for name, count in job.cluster.machines.items())
    noise = Random(job.name).uniform(-0.02, 0.02)
    return min(1.0, max(0.0, power / 50.0 + noise))


@given(seed=st.integers(0, 1000), at_once=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_the_answer_is_the_same_in_whatever_order_trials_are_told(seed: int, at_once: int) -> None:
    chance, (question, play) = Random(seed), _mixed_question()
    search, under_way = Search(question), list[Job]()
    while not search.done:
        under_way += search.ask(at_once - len(under_way))
        job = under_way.pop(chance.randrange(len(under_way)))
        search.tell(job, play(question, job))
    assert search.plan() == truth()


def test_there_are_so_many_jobs_and_no_more_none_of_them_twice() -> None:
    question, play = _mixed_question()
    names: list[str] = []

    def count(question: PlanQuestion, job: Job) -> Trial:
        names.append(job.name)
        return play(question, job)

    plan = found(question, count)
    assert len(set(names)) == len(names) <= MOST_JOBS
    assert plan.notes == ()
    names.clear()
    few = found(question, count, most_jobs=12)
    assert len(names) <= 12
    assert few.notes == ("Only 12 trials were made: more of them might find a cheaper cluster.",)
    assert few.chosen is None
    assert few.sentence.startswith("No cluster that was tried attains 95 %: it is at best")


def test_progress_counts_what_is_done_of_what_there_will_be() -> None:
    question, play = _mixed_question()
    search = Search(question)
    seen = []
    while not search.done:
        (job,) = search.ask(1)
        search.tell(job, play(question, job))
        seen.append(search.progress)
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert all(done < about for done, about in seen[:-1])
    assert seen[-1] == (len(seen), len(seen))


def test_what_nobody_asked_for_cannot_be_told() -> None:
    question = asked()
    search = Search(question)
    (job,) = search.ask(1)
    trial = played_as(lambda _: 1.0)(question, job)
    with pytest.raises(ValueError, match="nobody asked for 'other'"):
        search.tell(replace(job, name="other"), trial)
    search.tell(job, trial)
    with pytest.raises(ValueError, match="nobody asked"):
        search.tell(job, trial)
    assert search.ask(0) == []


def test_machines_that_cost_nothing_are_as_few_as_can_be() -> None:
    plan = found(asked(*priced(free=0.0), most_machines=20), played_as(by_power({"free": 1.0}, 5.0)))
    assert plan.chosen is not None
    assert plan.chosen.cluster.count == 5


def test_a_type_that_cannot_hold_the_models_is_not_tried() -> None:
    too_small = machine("tiny", 0.1, device_bytes=5 * MB)
    plan = found(asked(machine(), too_small), played_as(lambda _: 1.0))
    assert all("tiny" not in trial.cluster.machines for trial in plan.tried)
