"""What a history says of steps: what they take beside their weights, and of whose prefills it is to be believed."""

import pytest

from schedules.fitting.samples import Of, samples, steps
from schedules.fitting.seen import Began, Fetch, FirstStep, Happened
from schedules.rates import DECODE, PREFILL
from schedules.traces.happened import Asked
from tests.schedules.worlds import MB, world_model

MODELS = {"large": world_model("large", unit_bytes=50 * MB), "small": world_model("small", unit_bytes=10 * MB)}
STEP_S, BYTES_PER_S = 0.004, 1e10


def happened(*names: str, source: str = "dram", computed_s: float = 0.01) -> Happened:
    """A start each, on one stage, whose tokens take as long as their weights at that rate and a bit."""
    starts, asked = list[Began](), list[Asked]()
    for at_s, name in enumerate(names):
        tpot_s = STEP_S + MODELS[name].size_bytes / BYTES_PER_S
        fetches = (Fetch("a", "embed", source, 0 if source == "dram" else MB, at_s, at_s + 0.1),)
        steps_ = (FirstStep("a", computed_s),)
        starts.append(Began(name, ("a",), at_s, at_s, 0.5, at_s + 0.2, fetches=fetches, steps=steps_))
        asked.append(Asked(name, at_s, 64, 32, 32, ttft_s=0.5, last_s=0.5 + 31 * tpot_s, cold=True))
    return Happened(0.0, len(names), tuple(starts), tuple(asked))


def test_what_a_step_takes_beside_its_weights_is_told_by_models_of_several_sizes() -> None:
    found = steps(happened("large", "small", "large", "small"), MODELS)
    assert [sample.value for sample in found] == pytest.approx([STEP_S] * 4)
    rates = samples(happened("large", "small"), MODELS, {}, STEP_S)[Of("a", DECODE)]
    assert [sample.value for sample in rates] == pytest.approx([BYTES_PER_S] * 2)


def test_models_of_one_size_say_nothing_of_it() -> None:
    assert steps(happened("small", "small", "small"), MODELS) == []


@pytest.mark.parametrize("source", ["dram", "ssd"])
def test_a_prefill_is_a_sample_if_nothing_comes_over_the_network_beside_it(source: str) -> None:
    found = samples(happened("small", source=source), MODELS, {})[Of("a", PREFILL)]
    assert [sample.value for sample in found] == pytest.approx([60 * MB * 64 / 0.01])
    for beside in ("remote", "peer"):
        assert Of("a", PREFILL) not in samples(happened("small", source=beside), MODELS, {})
