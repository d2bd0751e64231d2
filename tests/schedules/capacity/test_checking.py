"""Bad input gets one sentence, before anything is played."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schedules.capacity.checking import notes_of
from schedules.capacity.errors import BadQuestion
from schedules.capacity.question import PlanQuestion
from schedules.capacity.searching import Search
from schedules.facts import Rate
from schedules.rates import NIC, SSD
from tests.schedules.capacity.small import WANTED, asked, machine
from tests.schedules.worlds import MB

GOOD = asked()
KIND = machine()
NO_SSD = {name: rate for name, rate in KIND.rates.items() if name != SSD}


def with_choices(**changed: Any) -> PlanQuestion:
    return replace(GOOD, choices=replace(GOOD.choices, **changed))


def with_type(**changed: Any) -> PlanQuestion:
    return with_choices(types=(replace(KIND, **changed),))


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (with_choices(types=()), "there are no types of machines to choose from"),
        (with_choices(types=(KIND, KIND)), "two types of machines are called 'small'"),
        (with_choices(most_machines=0), "a cluster has one machine at least, not up to 0"),
        (with_choices(store_bytes_per_s=0.0), "the store cannot give 0 bytes a second"),
        (with_choices(dram_shares=()), "shares of dram are from 0 to 1, one at least, not none"),
        (with_choices(ssd_shares=(0.5, 1.5)), "shares of ssd are from 0 to 1, one at least, not 0.5, 1.5"),
        (with_type(price_per_h=-1.0), "what an hour of 'small' costs is a number from 0 on, not -1.0"),
        (with_type(price_per_h=float("nan")), "what an hour of 'small' costs is a number from 0 on, not nan"),
        (with_type(price_per_h=None), "what an hour of 'small' costs is a number from 0 on, not None"),
        (with_type(nodes=0), "a machine 'small' has a node and memory for its stages at least"),
        (with_type(context_bytes=130 * MB), "a machine 'small' has a node and memory for its stages at least"),
        (with_type(dram_bytes=-1), "a machine 'small' has a node and memory for its stages at least"),
        (with_type(rates=NO_SSD), "nothing says how fast 'small' is: its nic, ssd, decode, prefill and formed.1 are needed"),
        (with_type(rates={**KIND.rates, NIC: Rate(0.0, 1.0, 1)}), "the rate nic of 'small' is a number above 0, not 0"),
        (
            with_type(device_bytes=3 * MB),
            "'model-0' fits nowhere: 0.06 GB of weights and KV cache for 1,024 tokens are too much for a node of any type",
        ),
        (replace(GOOD, attainment=0.0), "a share of requests is above 0 and up to 1, not 0"),
        (replace(GOOD, attainment=float("nan")), "a share of requests is above 0 and up to 1, not nan"),
        (replace(GOOD, patience_s=0.0), "nobody waits for 0 s"),
        (replace(GOOD, models=()), "there are no models to be served"),
        (replace(GOOD, models=GOOD.models[:2]), "the trace names 6 models, not 2"),
        (
            replace(GOOD, trace=GOOD.trace.only(np.zeros(len(GOOD.trace), np.bool_), "nothing")),
            "the trace has no requests: nothing says what is to be served",
        ),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else "",
)  # fmt: skip
def test_a_question_without_an_answer_is_refused(question: PlanQuestion, sentence: str) -> None:
    with pytest.raises(BadQuestion) as refused:
        Search(question)
    assert str(refused.value) == sentence


def test_that_a_goal_means_no_more_than_an_answer_is_said() -> None:
    unlimited = replace(WANTED, ttft_s=None)
    assert notes_of(GOOD) == ()
    assert notes_of(asked(objectives=unlimited)) == (
        "No model has a service level: a request attains what is wanted if it is answered at all.",
    )
    some = tuple(replace(offered, objectives=unlimited) for offered in GOOD.models[:5])
    (note,) = notes_of(replace(GOOD, models=(*some, GOOD.models[5])))
    assert note.endswith("so it is of model-0, model-1, model-2, model-3 and 1 more.")
