"""What a plan says beside the cluster: a curve, what else would be, what binds, and why there is none."""

from dataclasses import replace
from typing import Any

import pytest

from schedules.capacity.answering.words import machines_in_words
from schedules.capacity.clusters import Cluster
from schedules.capacity.plan import Plan
from schedules.capacity.playing import try_out
from schedules.capacity.question import PlanQuestion
from schedules.capacity.search import Job, Resource
from schedules.capacity.trial import Trial
from tests.schedules.capacity.small import HALF_USED, WANTED, asked, by_power, found, machine, played_as, priced
from tests.schedules.worlds import MB


def test_the_curve_has_what_each_price_buys_with_enough_points_around_the_knee() -> None:
    question = asked(*priced(a=1.0, b=2.9), most_machines=100, attainment=0.99)
    plan = found(question, played_as(by_power({"a": 1.0, "b": 2.0}, 20.0)))
    prices = [trial.price_per_h for trial in plan.curve]
    assert prices == sorted(set(prices))
    assert len(prices) >= 8
    assert {18.0, 19.0, 20.0, 21.0, 22.0} <= set(prices)
    assert plan.chosen in plan.curve
    assert set(map(id, plan.curve)) < set(map(id, plan.tried))


def test_what_a_cheaper_one_clearly_beats_is_not_on_the_curve_and_the_luck_of_a_trace_is() -> None:
    shares = {1: 0.6, 2: 0.9, 3: 0.895, 4: 0.8, 5: 0.99}
    plan = found(asked(attainment=0.98), played_as(lambda job: shares.get(job.cluster.count, 0.99)))
    assert [trial.cluster.count for trial in plan.curve] == [1, 2, 3, 5, 6]


def test_as_little_dram_and_ssd_is_taken_as_attains_the_goal() -> None:
    def served(job: Job) -> float:
        dram, ssd = sum(job.cluster.dram_budget_bytes.values()), sum(job.cluster.ssd_budget_bytes.values())
        return 1.0 if job.cluster.count >= 2 and dram >= 250 * MB and ssd >= 400 * MB else 0.8

    plan = found(asked(dram_shares=(0.25, 0.5, 1.0), ssd_shares=(0.1, 1.0)), played_as(served))
    assert plan.chosen is not None
    assert plan.chosen.cluster.dram_budget_bytes == {"small": 250 * MB}
    assert plan.chosen.cluster.ssd_budget_bytes == {"small": 2000 * MB}
    assert plan.chosen.name == "2 x small, 50 % of the dram"
    assert plan.settings == {
        "small": {
            "cluster.nodes": 1, "node.device_bytes": 130 * MB, "node.dram_bytes": 250 * MB, "node.ssd_bytes": 2000 * MB,
        }
    }  # fmt: skip


def test_settings_are_those_of_a_node() -> None:
    plan = found(asked(replace(machine("pair"), nodes=2)), played_as(lambda _: 1.0))
    assert plan.settings["pair"]["cluster.nodes"] == 2
    assert plan.settings["pair"]["node.dram_bytes"] == 250 * MB


def test_what_else_would_be_is_said_in_sentences() -> None:
    def served(job: Job) -> float:
        share = 0.96 if job.cluster.count >= 3 else 0.90
        halved = job.cluster.dram_budget_bytes["small"] < 500 * MB
        return (
            share
            - 0.1 * (job.demand - 1)
            - 0.2 * job.lose
            - 0.3 * job.cold
            - 0.4 * halved
            + 0.01 * (job.cluster.network - 1)
        )

    plan = found(asked(), played_as(served))
    assert {each.name: round(each.trial.attained, 9) for each in plan.what_ifs} == {
        "one machine fewer": 0.90, "twice the traffic": 0.86, "a machine lost": 0.76, "no prewarming": 0.66,
        "twice the network": 0.97, "half the dram": 0.56,
    }  # fmt: skip
    sentences = {each.name: each.sentence for each in plan.what_ifs}
    assert sentences["one machine fewer"] == (
        "With one machine fewer 90 % instead of 96 % of the requests would be served as wanted (2 x small)."
    )
    assert sentences["a machine lost"].startswith(
        "If the machine that is used most were lost in the middle, and not replaced, 76 %"
    )


def test_of_one_machine_none_is_one_fewer() -> None:
    plan = found(asked(), played_as(lambda job: 0.5 if job.lose else 1.0))
    sentences = {each.name: each.sentence for each in plan.what_ifs}
    assert "one machine fewer" not in sentences
    assert sentences["a machine lost"].endswith("would be served as wanted (it is the only one).")
    assert sentences["twice the network"].endswith("100 % of the requests would be served as wanted, as it is now.")
    assert plan.binding == "Nothing: no cheaper cluster can be had."


# ---- what binds


def _with_twice(**gains: float) -> Plan:
    def served(job: Job) -> float:
        gain = gains.get(job.twice.name, 0.0) if job.twice is not None else 0.0
        return 0.96 if job.cluster.count >= 3 else 0.90 + gain

    return found(asked(store_bytes_per_s=100.0 * MB), played_as(served))


def test_what_binds_is_what_makes_the_cheaper_cluster_attain_it_when_doubled() -> None:
    assert _with_twice(CARDS=0.08, DEVICE=0.01).binding == (
        "Network cards: with network cards twice as fast 2 x small would attain 98 % instead of 90 %, and with anything else "
        "doubled 91 % at most."
    )


def test_several_things_may_bind() -> None:
    assert _with_twice(STORE=0.08, STARTUP=0.06).binding == (
        "The store: with a store that gives twice as much 2 x small would attain 98 % instead of 90 %; it would be 96 % at "
        "most with stages that start twice as fast."
    )


def test_no_single_thing_may_bind() -> None:
    assert _with_twice(DRAM=0.02).binding == (
        "No single thing, dram most of all: with twice the dram 2 x small would attain 92 % instead of 90 %, where 95 % are "
        "wanted."
    )
    assert _with_twice().binding == "No single thing: whichever is doubled, 2 x small attains no more than 90 %."


def test_what_is_compared_comes_closest_of_all_that_is_cheaper() -> None:
    shares = {"2 x large": 0.96, "1 x large": 0.5, "3 x small": 0.9}
    question = asked(*priced(small=4.0, large=10.0), most_machines=3)

    def served(job: Job) -> float:
        return 1.0 if job.twice is Resource.CARDS else shares.get(machines_in_words(job.cluster), 0.4)

    plan = found(question, played_as(served))
    assert plan.binding.startswith(
        "Network cards: with network cards twice as fast 3 x small would attain 100 % instead of 90 %"
    )


# ---- no cluster


def test_where_more_machines_do_not_help_the_search_ends() -> None:
    tried = list[Job]()

    def served(job: Job) -> float:
        tried.append(job)
        return 0.9

    plan = found(asked(most_machines=1000), played_as(served))
    assert plan.chosen is None
    assert plan.settings == {}
    assert plan.what_ifs == ()
    assert max(job.cluster.count for job in tried) <= 16
    assert plan.sentence == (
        "No cluster that was tried attains 95 %, and more machines do not help: it is at best 90 %, on 1 x small, where "
        "'model-0' misses most, with 90 % of its own."
    )


def test_where_machines_are_too_few_the_most_are_tried() -> None:
    plan = found(
        asked(most_machines=11), played_as(by_power({"small": 1.0}, 20.0), replace(HALF_USED, device_busiest=1.0))
    )
    assert plan.chosen is None
    assert plan.sentence.startswith(
        "No cluster of up to 11 of these machines attains 95 %: it is at best 55 %, on 11 x small"
    )


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"ttft_s": 0.4}, "a cold start of 'model-0' takes 0.506 s at least, and its limit is 0.4 s"),
        ({"tpot_s": 0.003}, "a token of 'model-0' takes 6 ms at least, and its limit is 3 ms"),
        ({"ttft_s": 0.001}, "the longest prompt of 'model-0' takes 6.96 ms at least, and its limit is 1 ms"),
    ],
    ids=["start", "token", "prompt"],
)
def test_what_no_machine_can_is_said_with_the_model_and_by_how_much(wanted: dict[str, Any], why: str) -> None:
    """The first request of each model comes to a cold one, which is more than may be late."""
    trials = list[str]()

    def play(question: PlanQuestion, job: Job) -> Trial:
        trials.append(job.name)
        return played_as(lambda _: 0.3)(question, job)

    plan = found(asked(objectives=replace(WANTED, **wanted), attainment=0.99), play)
    assert plan.chosen is None
    assert why in plan.sentence
    assert "at best 30 %" in plan.sentence
    assert why in plan.binding
    assert len(trials) <= 2


def test_what_is_late_anyway_is_late_when_it_is_played() -> None:
    question = asked(objectives=replace(WANTED, ttft_s=0.4), most_machines=12)
    assert try_out(question, Job("many", Cluster({"small": 12}))).attained < 0.96
    assert found(replace(question, attainment=0.97)).chosen is None


# ---- worlds in which one thing binds


def test_in_a_world_of_slow_cards_it_is_the_cards() -> None:
    slow = machine(nic=30.0 * MB, device_bytes=400 * MB)
    plan = found(asked(slow, models=8, objectives=replace(WANTED, ttft_s=1.9), attainment=0.999, most_machines=3))
    assert plan.binding.startswith("Network cards"), plan.binding


def test_in_a_world_of_one_slow_store_it_is_the_store() -> None:
    fast = machine(nic=1000.0 * MB, device_bytes=400 * MB)
    question = asked(fast, models=8, objectives=replace(WANTED, ttft_s=1.9), attainment=0.999, most_machines=3)
    plan = found(replace(question, choices=replace(question.choices, store_bytes_per_s=30.0 * MB)))
    assert plan.binding.startswith("The store"), plan.binding


def test_in_a_world_of_slow_starts_it_is_the_start() -> None:
    question = asked(machine(formed=2.0), objectives=replace(WANTED, ttft_s=1.9), attainment=0.9, most_machines=2)
    plan = found(question)
    assert plan.chosen is None
    assert plan.binding.startswith("Starting stages"), plan.binding


def test_in_a_world_of_little_memory_it_is_the_memory() -> None:
    little = machine(device_bytes=70 * MB, formed=0.8)
    plan = found(
        asked(little, objectives=replace(WANTED, ttft_s=1.9, keep_alive_s=300.0), attainment=0.98, most_machines=2)
    )
    assert plan.binding.startswith("Accelerator memory"), plan.binding


def test_in_a_world_of_slow_computing_it_is_the_computing() -> None:
    slow = machine(device_bytes=400 * MB, prefill=4e9)
    plan = found(asked(slow, objectives=replace(WANTED, ttft_s=1.2), attainment=0.9, most_machines=2))
    assert plan.chosen is None
    assert plan.binding.startswith("Computing"), plan.binding
