import json
from dataclasses import replace
from typing import Any

import pytest

from schedules.facts import ModelKey
from schedules.foresight.plan import Kept, LeftOut, Plan, Staging
from schedules.foresight.retention import Retention
from schedules.foresight.spoken import plan_as_json, read_plan

KEY = ModelKey("a", "sha256:1")
PLAN = Plan(
    60.0,
    960.0,
    (Staging("n0", KEY, ("embed", "layer.0000"), "dram", 20, "peer", 120.0, 1.5, "It is called soon."),),
    {"n0": Retention({"d1": 0.25}, 0.125)},
    {"n0": Retention({}, 0.0)},
    (Kept(KEY, 1, 2.5, "It is called all the time."),),
    {KEY: 3.5},
    (LeftOut("b", "Nobody is expected to call it."),),
)


def test_a_plan_goes_through_json_and_back() -> None:
    assert read_plan(json.loads(json.dumps(plan_as_json(PLAN), allow_nan=False))) == PLAN


def test_a_plan_of_nothing_does_too() -> None:
    nothing = Plan(0.0, 1.0, (), {}, {}, (), {})
    assert read_plan(json.loads(json.dumps(plan_as_json(nothing)))) == nothing


def _damaged(*path: str | int, by: object) -> Any:
    told = json.loads(json.dumps(plan_as_json(PLAN)))
    inner = told
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = by
    return told


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (None, "the plan is no object"),
        ([], "the plan is no object"),
        ({1: 2}, "the plan is no object"),
        ({}, "the plan is of version None: version 1 is read here"),
        (_damaged("version", by=True), "the plan is of version True: version 1 is read here"),
        (_damaged("made_s", by="now"), "made_s is no number"),
        (_damaged("made_s", by=True), "made_s is no number"),
        (_damaged("made_s", by=float("nan")), "made_s is no number"),
        (_damaged("until_s", by=0.0), "the plan is over at 0, before it was made at 60"),
        (_damaged("stagings", by={}), "stagings is no list"),
        (_damaged("stagings", 0, by=7), "one of stagings is no object"),
        (_damaged("stagings", 0, "node", by=7), "node is no text"),
        (_damaged("stagings", 0, "units", by="embed"), "units is no list of texts"),
        (_damaged("stagings", 0, "units", by=[1]), "units is no list of texts"),
        (_damaged("stagings", 0, "tier", by="device"), "tier is 'device', and none of dram, ssd"),
        (_damaged("stagings", 0, "size_bytes", by=-1), "size_bytes is no count"),
        (_damaged("stagings", 0, "size_bytes", by=1.5), "size_bytes is no count"),
        (_damaged("stagings", 0, "saved_s", by=-1), "saved_s is -1, less than 0"),
        (_damaged("dram", by=[]), "dram is no object"),
        (_damaged("dram", "n0", by=[]), "what node n0 keeps is no object"),
        (_damaged("dram", "n0", "worth", by=[]), "what units are worth on node n0 is no object"),
        (_damaged("dram", "n0", "worth", "d1", by=None), "d1 is no number"),
        (_damaged("ssd", "n0", "otherwise", by=float("inf")), "otherwise is no number"),
        (_damaged("kept", 0, "replicas", by=True), "replicas is no count"),
        (_damaged("worth", 0, "model", by=None), "model is no text"),
        (_damaged("left_out", 0, "reason", by=None), "reason is no text"),
    ],
    ids=range(26),
)
def test_anything_else_is_refused_in_a_sentence(told: object, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_plan(told)
    assert str(raised.value) == sentence


def test_a_plan_that_was_told_retains_what_the_one_that_was_made_does() -> None:
    told = read_plan(plan_as_json(replace(PLAN, ssd={})))
    assert told.retention("n0") == (Retention({"d1": 0.25}, 0.125), Retention({}))
