"""A job is played, and what became of it is summed up."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from schedules.capacity.clusters import Cluster
from schedules.capacity.playing import scenario_of, try_out
from schedules.capacity.search import Job, Resource
from schedules.facts import Rate
from schedules.rates import BUS, DECODE, NIC, PREFILL, SSD, STORE, formed
from schedules.simulation.play import play
from schedules.world.habits import Misfortune
from tests.schedules.capacity.small import WANTED, asked, machine
from tests.schedules.worlds import MB

ONE = asked()
JOB = Job("two", Cluster({"small": 2}))
BIG = replace(machine("big", 5.0, 200 * MB), nodes=2, rates={**machine().rates, BUS: Rate(1e9, 1e9, 9)})


def test_a_trial_says_what_the_outcomes_say() -> None:
    told: list[int] = []
    trial, played = try_out(ONE, JOB, told.append), play(scenario_of(ONE, JOB))
    within = played.ttft_s <= 1.5
    assert trial.attained == within.mean()
    assert trial.by_model["model-0"] == within[ONE.trace.model == 0].mean()
    assert trial.ttft_s["p95"] == pytest.approx(np.percentile(played.ttft_s, 95))
    assert trial.cold_ttft_s["p50"] == pytest.approx(np.percentile(played.ttft_s[played.cold], 50))
    assert (trial.cold, trial.unserved, trial.requests) == (played.cold.mean(), 0.0, len(ONE.trace))
    assert trial.price_per_h == 2.0
    assert trial.price_per_mtok == pytest.approx(2.0 * 300 / 3600 / ONE.trace.answer_tokens.sum() * 1e6)
    assert trial.moved_bytes == played.moved_bytes
    reserved = played.cost_byte_s.sum() / (2 * 130 * MB * played.lasted_s)
    assert trial.usage.device == pytest.approx(reserved, rel=0.01)
    assert trial.usage.device < trial.usage.device_busiest <= 1.0
    assert 0.0 < trial.usage.network < trial.usage.network_busiest < 1.0
    assert trial.usage.store is None


def test_a_job_travels_and_is_the_same_wherever_it_is_played() -> None:
    question, job = pickle.loads(pickle.dumps((ONE, JOB)))
    assert pickle.loads(pickle.dumps(try_out(question, job))) == try_out(ONE, JOB)


def test_nodes_are_those_of_machines_with_what_is_theirs_of_dram_and_ssd() -> None:
    question = asked(machine(), BIG, store_bytes_per_s=50.0 * MB)
    cluster = Cluster({"small": 1, "big": 2}, 50.0 * MB, {"big": 300}, {}, network=2.0)
    nodes = scenario_of(question, Job("mixed", cluster)).nodes
    assert [node.name for node in nodes] == ["small-0001", "big-0001.0", "big-0001.1", "big-0002.0", "big-0002.1"]
    small, big = nodes[0], nodes[1]
    assert (small.dram_bytes, small.ssd_bytes, small.gpu) == (500 * MB, 2000 * MB, "")
    assert (big.dram_bytes, big.ssd_bytes, big.machine, big.gpu) == (150, 1000 * MB, "big-0001", "gpu:big-0001.0")
    assert small.rates[NIC].mean == 200.0 * MB
    assert small.rates[STORE].mean == 100.0 * MB


@pytest.mark.parametrize(
    ("resource", "changed", "factor"),
    [
        (Resource.CARDS, NIC, 2.0), (Resource.STORE, STORE, 2.0), (Resource.COMPUTE, DECODE, 2.0),
        (Resource.COMPUTE, PREFILL, 2.0), (Resource.SSD, SSD, 2.0), (Resource.STARTUP, formed(1), 0.5),
    ],
)  # fmt: skip
def test_one_thing_is_doubled_and_all_else_stays(resource: Resource, changed: str, factor: float) -> None:
    question, cluster = asked(), Cluster({"small": 1}, 50.0 * MB)
    (plain,) = scenario_of(question, Job("as it is", cluster)).nodes
    (node,) = scenario_of(question, Job("other", cluster, twice=resource)).nodes
    assert node.rates[changed].mean == factor * plain.rates[changed].mean
    others = {Resource.COMPUTE: (NIC, SSD, STORE, formed(1))}.get(resource, (DECODE, PREFILL))
    assert all(node.rates[name] == plain.rates[name] for name in others)
    assert (node.device_bytes, node.dram_bytes) == (plain.device_bytes, plain.dram_bytes)


def test_memory_is_doubled() -> None:
    question, cluster = asked(), Cluster({"small": 1}, None, {"small": 10})
    assert scenario_of(question, Job("", cluster, twice=Resource.DEVICE)).nodes[0].device_bytes == 260 * MB
    assert scenario_of(question, Job("", cluster, twice=Resource.DRAM)).nodes[0].dram_bytes == 20


def test_the_machine_that_is_used_most_is_lost_in_the_middle_with_all_its_nodes() -> None:
    question = asked(machine(), BIG)
    cluster = Cluster({"small": 1, "big": 1})
    plain = play(scenario_of(question, Job("whole", cluster)))
    at_work = [
        node.partition(".")[0]
        for start in plain.starts
        if start.ordered_s <= 150.0 and (start.ended_s or 300.0) > 150.0
        for node in start.nodes
    ]
    scenario = scenario_of(question, Job("lost", cluster, lose=True))
    lost = {trouble.name.partition(".")[0] for trouble in scenario.troubles}
    assert {(trouble.at_s, trouble.what) for trouble in scenario.troubles} == {(150.0, Misfortune.NODE_LOST)}
    assert lost == {max(("small-0001", "big-0001"), key=at_work.count)}
    assert len(scenario.troubles) == 2
    assert try_out(question, Job("lost", Cluster({"small": 1}), lose=True)).unserved > 0.3


def test_nothing_is_kept_without_prewarming_and_all_comes_from_the_store_again() -> None:
    kept, cold = try_out(ONE, JOB), try_out(ONE, replace(JOB, cold=True))
    assert cold.moved_bytes["remote"] > kept.moved_bytes["remote"]
    assert cold.cold_ttft_s["p50"] > kept.cold_ttft_s["p50"]


def test_more_demand_is_played_as_more_requests() -> None:
    assert try_out(ONE, replace(JOB, demand=2.5)).requests == 2.5 * len(ONE.trace)


def test_where_nothing_is_answered_there_are_no_times_and_no_price_of_a_token() -> None:
    too_small = asked(machine(device_bytes=30 * MB), patience_s=5.0)
    trial = try_out(too_small, Job("one", Cluster({"small": 1})))
    assert (trial.attained, trial.unserved, trial.price_per_mtok) == (0.0, 1.0, float("inf"))
    assert trial.ttft_s == trial.cold_ttft_s == trial.tpot_s == {}


def test_the_time_of_a_token_counts_where_it_has_a_limit() -> None:
    slow = try_out(asked(objectives=replace(WANTED, tpot_s=0.001)), JOB)
    assert slow.attained < 0.2 < try_out(asked(objectives=replace(WANTED, tpot_s=0.1)), JOB).attained


def test_the_share_of_the_store_is_known_where_it_has_a_limit() -> None:
    question = asked(store_bytes_per_s=20.0 * MB)
    usage = try_out(question, Job("one", Cluster({"small": 1}, 20.0 * MB))).usage
    assert usage.store is not None
    assert usage.store_busiest is not None
    assert 0.0 < usage.store < usage.store_busiest <= 1.0
