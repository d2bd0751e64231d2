"""Plans and trials as JSON, and questions that are the same."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.capacity.errors import BadDocument
from schedules.capacity.plan import Plan
from schedules.capacity.question import PlanQuestion
from schedules.capacity.spoken import VERSION, digest, from_json, inputs_of, to_json, trial_from_json, trial_to_json
from schedules.capacity.trial import Trial
from schedules.systems.system import OURS
from schedules.traces.changing import sped
from tests.schedules.capacity.small import WANTED, asked, found, machine

PLAN = found(asked(), most_jobs=8)
GOOD = asked()


def through_json(document: Any) -> Any:
    """Written and read, by the letter of JSON."""
    return json.loads(json.dumps(document, allow_nan=False))


def test_a_plan_is_read_as_it_was_written() -> None:
    assert from_json(through_json(to_json(PLAN))) == PLAN
    assert isinstance(PLAN, Plan)
    assert PLAN.chosen is not None


def test_a_plan_without_a_cluster_is_read_as_it_was_written() -> None:
    none = found(asked(objectives=replace(WANTED, ttft_s=0.001), attainment=1.0), most_jobs=8)
    assert none.chosen is None
    assert from_json(through_json(to_json(none))) == none


@settings(max_examples=20)
@given(
    st.one_of(st.just(float("inf")), st.floats(0, 1e9)),
    st.dictionaries(st.sampled_from(["p50", "p95"]), st.floats(0, 9)),
)
def test_a_trial_is_read_as_it_was_written(price: float, times: dict[str, float]) -> None:
    trial = replace(PLAN.tried[0], price_per_mtok=price, ttft_s=times)
    assert trial_from_json(through_json(trial_to_json(trial))) == trial
    assert isinstance(trial, Trial)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "this is no trial of ours"),
        ({"version": VERSION}, "this is no trial of ours"),
        ({"version": 99, "trial": {}}, "the trial is of version 99: this program reads version 1"),
        ({"version": VERSION, "trial": {"name": "x"}}, "this is no trial of ours, or damaged"),
    ],
)
def test_what_is_no_trial_is_refused_in_a_sentence(document: Any, sentence: str) -> None:
    with pytest.raises(BadDocument, match=f"^{sentence}$"):
        trial_from_json(document)
    with pytest.raises(BadDocument):
        from_json(document)


def test_a_damaged_plan_is_refused() -> None:
    document = through_json(to_json(PLAN))
    del document["plan"]["curve"][0]["usage"]
    with pytest.raises(BadDocument, match="this is no plan of ours, or damaged"):
        from_json(document)


def test_inputs_tell_people_what_was_asked() -> None:
    inputs = inputs_of(GOOD)
    assert through_json(inputs) == inputs
    assert inputs["trace"]["requests"] == len(GOOD.trace)
    assert inputs["models"][0] | {"name": "model-0", "ttft_s": 1.5, "size_bytes": 60_000_000} == inputs["models"][0]
    assert sum(each["requests"] for each in inputs["models"]) == len(GOOD.trace)
    assert inputs["choices"]["types"][0]["price_per_h"] == 1.0
    assert (inputs["system"]["name"], inputs["system"]["policy"]) == ("firsttoken", "planned")


@pytest.mark.parametrize(
    "other",
    [
        asked(replace(machine(), price_per_h=2.0)),
        asked(machine(nic=1.0)),
        asked(objectives=replace(WANTED, ttft_s=2.0)),
        asked(store_bytes_per_s=1e9),
        asked(dram_shares=(0.5,)),
        replace(GOOD, seed=1),
        replace(GOOD, patience_s=1.0),
        replace(GOOD, system=replace(OURS, keep_alive_s=1.0)),
        replace(GOOD, trace=sped(GOOD.trace, 2.0)),
        replace(GOOD, habits=replace(GOOD.habits, hop_s=1.0)),
        replace(GOOD, models=GOOD.models[::-1]),
    ],
    ids=["price", "speed", "limit", "store", "dram", "seed", "patience", "system", "trace", "habits", "models"],
)
def test_what_trials_depend_on_makes_another_question(other: PlanQuestion) -> None:
    assert digest(other) != digest(GOOD)


def test_a_question_is_the_same_whatever_share_is_wanted_of_however_many_machines() -> None:
    assert digest(asked(attainment=0.5, most_machines=50)) == digest(GOOD)
    assert digest(asked()) == digest(GOOD)
