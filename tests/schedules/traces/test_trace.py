"""A trace as a value, and traces made of traces."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import ModelKey
from schedules.simulation.simulate import Arrival
from schedules.traces import changing
from schedules.traces import trace as trace_module
from schedules.traces.arrivals import arrivals
from schedules.traces.errors import BadTrace, BadWish
from schedules.traces.importing import Wishes, made_of
from schedules.traces.lengths import TASKS, Lognormal, draw, task
from schedules.traces.lineup import PRESETS, numbered, preset
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import COLUMNS, LONGEST_S, MOST_TOKENS, Target, Trace
from tests.schedules.traces.made import at, requests_of, trace, traces

SEED = 7
TWO = trace((0.0, "a", 10, 1), (1.0, "b", 20, 2), (3.0, "a", 30, 3), duration_s=4.0)


def test_requests_are_in_the_order_of_their_arrival_and_those_of_one_time_stay_as_they_were() -> None:
    made = trace((2.0, "a", 1, 1), (1.0, "b", 2, 1), (2.0, "c", 3, 1), (1.0, "d", 4, 1))
    assert [model for _, model, _, _ in requests_of(made)] == ["b", "d", "a", "c"]


def test_a_million_requests_take_24_megabytes() -> None:
    columns = np.ones(1_000_000)
    made = Trace(columns, columns - 1, *(columns,) * 3, ("m",), 1.0, TWO.provenance)
    assert sum(getattr(made, name).nbytes for name in COLUMNS) == 24_000_000


def test_nobody_writes_to_a_trace_nor_to_what_it_was_made_of_by_it() -> None:
    own = np.zeros(1)
    made = replace(at(0.0), at_s=own)
    with pytest.raises(ValueError, match="read-only"):
        made.at_s[0] = 1.0
    own[0] = 0.0


def test_traces_are_equal_by_what_is_in_them() -> None:
    assert at(0.0, 1.0) == at(0.0, 1.0)
    assert at(0.0, 1.0) != at(0.0, 2.0)
    assert at(0.0, duration_s=1.0) != at(0.0, duration_s=2.0)
    assert at(0.0) != "a trace"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"at_s": [0.0, 3.0, 1.0]}, "not in order"),
        ({"at_s": [-1.0, 0.0, 1.0]}, "not within"),
        ({"at_s": [0.0, 1.0, 9.0]}, "not within"),
        ({"at_s": [0.0, 1.0, np.nan]}, "finite"),
        ({"at_s": [0.0]}, "another length"),
        ({"duration_s": LONGEST_S * 2}, "time unit"),
        ({"duration_s": float("nan")}, "lasts up to"),
        ({"model": [0, 1, 2]}, "does not name"),
        ({"model": [0, 1, -1]}, "does not name"),
        ({"prompt_tokens": [1, 0, 1]}, "from 1 to"),
        ({"answer_tokens": [1, MOST_TOKENS + 1, 1]}, "from 1 to"),
        ({"max_tokens": [1, 1, 1]}, "longer than its max_tokens"),
        ({"models": ("a", "a")}, "same name"),
        ({"models": ("a", "")}, "cannot be a model's name"),
        ({"models": ("a", "b\n")}, "cannot be a model's name"),
        ({"models": ("a", "b" * 201)}, "cannot be a model's name"),
        ({"targets": (Target(),)}, "1 targets for 2 models"),
        ({"targets": (Target(), Target(ttft_s=-1.0))}, "cannot be a target"),
    ],
)
def test_what_no_trace_can_be_is_said(changed: dict[str, object], problem: str) -> None:
    with pytest.raises(BadTrace, match=problem):
        replace(TWO, **{name: np.array(value) if name in COLUMNS else value for name, value in changed.items()})


def test_there_are_only_so_many_requests_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "MOST_REQUESTS", 2)
    with pytest.raises(BadTrace, match="3 requests are more than a trace can have"):
        at(0.0, 1.0, 2.0)
    monkeypatch.setattr(trace_module, "NAMED", 1)
    with pytest.raises(BadTrace, match="2 models are more than a trace can name"):
        trace(models=("a", "b"))


def test_a_part_begins_at_nought_and_has_its_own_length() -> None:
    part = changing.during(at(0.0, 1.0, 2.0, 3.0, duration_s=10.0), 1.0, 3.0)
    assert (part.at_s.tolist(), part.duration_s) == ([0.0, 1.0], 2.0)
    assert part.provenance.steps[-1] == "from 1 s to 3 s"
    assert changing.during(at(0.0, 3.0), 1.0, 9.0).at_s.tolist() == [2.0], "the last request is within its trace"
    with pytest.raises(BadWish, match="nothing of a trace of 3 s"):
        changing.during(at(0.0, 3.0), 3.0, 4.0)


@given(traces(), st.integers(1, 4))
def test_parts_are_the_whole(whole: Trace, parts: int) -> None:
    if whole.duration_s < 1e-3:
        return
    edges = [whole.duration_s * i / parts for i in range(parts)] + [whole.duration_s]
    cut = [changing.during(whole, start, end) for start, end in pairwise(edges)]
    assert sum(map(len, cut)) == len(whole)
    assert all((np.diff(part.at_s) >= 0).all() for part in cut)


@given(traces(fewest=1), st.floats(0.01, 1.0), st.integers(0, 99))
def test_a_thinned_trace_has_the_rate_and_only_requests_that_were_there(whole: Trace, share: float, seed: int) -> None:
    wanted = round(share * len(whole))
    if not wanted or whole.duration_s < 1.0:
        return
    thin = changing.thinned(whole, wanted / whole.duration_s, seed)
    assert (len(thin), thin.duration_s) == (wanted, whole.duration_s)
    left = requests_of(whole)
    for request in requests_of(thin):
        left.remove(request)


def test_thinning_is_the_same_for_the_same_seed_and_spares_no_part_of_the_time() -> None:
    whole = at(*np.arange(10_000.0), duration_s=10_000.0)
    thin = changing.thinned(whole, 0.1, SEED)
    assert thin == changing.thinned(whole, 0.1, SEED) != changing.thinned(whole, 0.1, SEED + 1)
    assert abs(np.count_nonzero(thin.at_s < 5000) - 500) < 4 * 250**0.5


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), 2.0])
def test_nothing_is_thinned_to_more_than_there_is(rate: float) -> None:
    with pytest.raises(BadWish, match="cannot be thinned"):
        changing.thinned(at(0.0, 1.0, duration_s=2.0), rate, SEED)


@given(traces(), st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.25]), st.integers(0, 2**32))
def test_a_denser_trace_has_so_many_requests_of_which_the_first_copy_is_as_it_was(
    whole: Trace, factor: float, seed: int
) -> None:
    result = changing.denser(whole, factor, seed)
    assert len(result) == int(factor) * len(whole) + round((factor - int(factor)) * len(whole))
    assert result == changing.denser(whole, factor, seed)
    assert (result.models, result.duration_s) == (whole.models, whole.duration_s)
    assert factor < 1 or not Counter(requests_of(whole)) - Counter(requests_of(result))


def test_copies_of_a_model_come_later_by_the_same_and_go_on_at_the_begin() -> None:
    one = synthesise(Recipe(numbered(3), 1.0, 100.0), seed=SEED)
    twice = changing.denser(one, 2.0, SEED)
    for model in range(3):
        was, is_now = one.at_s[one.model == model], twice.at_s[twice.model == model]
        added = np.sort(list((Counter(is_now.tolist()) - Counter(was.tolist())).elements()))
        shifts = [shift for shift in (added[0] - was) % 100.0 if np.allclose(np.sort((was + shift) % 100.0), added)]
        assert len(shifts) == 1


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_nothing_is_made_as_dense_as_cannot_be(factor: float) -> None:
    with pytest.raises(BadWish, match="2 requests cannot be"):
        changing.denser(at(0.0, 1.0), factor, SEED)


def test_time_goes_faster() -> None:
    fast = changing.sped(at(0.0, 5.0, duration_s=10.0), 5.0)
    assert (fast.at_s.tolist(), fast.duration_s) == ([0.0, 1.0], 2.0)
    for factor in (0.0, float("inf"), 1e-12):
        with pytest.raises(BadWish, match="time cannot go"):
            changing.sped(at(0.0, 5.0), factor)


def test_models_take_names_in_turn_from_the_one_that_is_called_most() -> None:
    calls = {"rare": 1, "often": 5, "some": 3}
    whole = trace(*((float(i), name, 1, 1) for name, many in calls.items() for i in range(many)))
    mapped = changing.round_robin(whole, ["x", "y"])
    assert np.bincount(mapped.model).tolist() == [6, 3]
    assert mapped.models == ("x", "y")


def test_requests_are_spread_with_a_skew() -> None:
    whole = changing.spread(at(*np.arange(30_000.0)), ["a", "b", "c"], 1.0, SEED)
    shares = np.bincount(whole.model) / len(whole)
    assert np.allclose(shares, [6 / 11, 3 / 11, 2 / 11], atol=0.01)


def test_renamed_models_that_have_one_name_are_one_model() -> None:
    aimed = replace(TWO, targets=(Target(1.0), Target(2.0)))
    both = changing.renamed(aimed, {"a": "z", "b": "z"})
    assert (both.models, both.model.tolist(), both.targets) == (("z",), [0, 0, 0], (Target(1.0),))
    with pytest.raises(BadWish, match="no model 'c' to rename: it has 'a', 'b'"):
        changing.renamed(TWO, {"c": "z"})


def test_traces_are_put_together_at_once_or_in_turn() -> None:
    other = trace((0.5, "b", 5, 5), (2.0, "c", 6, 6), duration_s=3.0)
    both = changing.merged([TWO, other])
    assert [(s, m) for s, m, _, _ in requests_of(both)] == [(0, "a"), (0.5, "b"), (1, "b"), (2, "c"), (3, "a")]
    assert both.duration_s == 4.0
    assert changing.merged([TWO, other], in_turn=True).at_s.tolist() == [0.0, 1.0, 3.0, 4.5, 6.0]
    assert changing.merged([TWO]) is TWO


def test_of_traces_with_targets_each_model_keeps_its_own() -> None:
    aimed = replace(at(0.0, model="a"), targets=(Target(1.0),))
    assert changing.merged([at(0.0, model="b"), aimed]).targets == (Target(), Target(1.0))


@given(traces(), traces())
def test_what_is_put_together_has_all_requests(one: Trace, other: Trace) -> None:
    both = changing.merged([one, other])
    assert sorted(requests_of(both)) == sorted(requests_of(one) + requests_of(other))


def test_arrivals_that_are_drawn_anew_keep_models_and_rates_and_get_the_cv() -> None:
    often, rare = np.arange(40_000) / 10, np.arange(0, 4000, 100)
    whole = trace(*((s, "often", 1, 1) for s in often), *((float(s), "rare", 2, 1) for s in rare), duration_s=4000.0)
    drawn = changing.redrawn(whole, 3.0, 4000.0, SEED)
    gaps = np.diff(drawn.at_s[drawn.model == 0])
    assert abs(len(gaps) - 40_000) < 4 * 3 * 200
    assert abs(gaps.std() / gaps.mean() - 3.0) < 0.15
    assert set(drawn.prompt_tokens[drawn.model == 1].tolist()) <= {2}
    assert drawn == changing.redrawn(whole, 3.0, 4000.0, SEED)


def test_arrivals_are_drawn_anew_in_the_window_in_which_they_were() -> None:
    drawn = changing.redrawn(at(*np.arange(100.0), duration_s=1000.0), 0.0, 100.0, SEED)
    assert 99 <= len(drawn) <= 101
    assert drawn.at_s.max() <= 100.0
    with pytest.raises(BadWish, match="drawn anew every 0 s"):
        changing.redrawn(at(0.0, 1.0), 1.0, 0.0, SEED)


def test_lengths_of_a_task_have_its_mean_and_no_answer_is_longer_than_what_is_asked_for() -> None:
    whole = changing.with_lengths(at(*np.arange(20_000.0)), task("chat"), 1024, SEED)
    assert abs(whole.prompt_tokens.mean() / TASKS["chat"].prompt.mean_tokens - 1) < 0.05
    assert whole.answer_tokens.max() == 1024 == whole.max_tokens.min()


def test_each_model_has_lengths_of_its_own_task() -> None:
    whole = changing.with_lengths(TWO, ["10:0/20:0", "30:0/40:0"], 100, SEED)
    assert [request[2:] for request in requests_of(whole)] == [(10, 20), (30, 40), (10, 20)]


def test_lengths_from_another_trace_are_drawn_in_pairs() -> None:
    known = trace((0.0, "m", 1, 2), (0.0, "m", 3, 4))
    prompt, answer = draw(known, 100, np.random.default_rng(SEED))
    assert set(zip(prompt.tolist(), answer.tolist(), strict=True)) == {(1, 2), (3, 4)}
    with pytest.raises(BadWish, match="without requests"):
        draw(trace(), 1, np.random.default_rng(SEED))


@pytest.mark.parametrize("name", ["poetry", "10", "10/x", "nan/10", "0/10", "10:9/10", "/"])
def test_what_is_no_task_is_said(name: str) -> None:
    with pytest.raises(BadWish):
        task(name)


def test_a_task_can_be_told_by_its_means() -> None:
    assert task("500/100:0.5") == changing.Task(Lognormal(500, 1.0), Lognormal(100, 0.5))


def test_prompts_are_cut() -> None:
    assert changing.truncated(TWO, 20).prompt_tokens.tolist() == [10, 20, 20]
    with pytest.raises(BadWish):
        changing.truncated(TWO, 0)


def test_the_presets_have_the_models_of_the_papers() -> None:
    hydra = preset("hydraserve").lineup
    assert len(hydra) == 384 == len({served.name for served in hydra})
    by_task = {served.task: served.target for served in hydra if "13b" in served.name}
    assert by_task == {"chat": (12.0, 0.2), "code": (12.0, 0.116), "summarisation": (60.0, 0.116)}
    assert len(PRESETS["serverlessllm"].lineup) == 56
    with pytest.raises(BadWish, match="'mine' is no preset"):
        preset("mine")
    with pytest.raises(BadWish, match="1 to"):
        numbered(0)


def test_functions_become_the_models_of_a_paper_with_its_lengths_and_targets() -> None:
    whole = trace(*((float(i), f"f{i % 5}", 9_000, 9_000) for i in range(50)))
    made = made_of([whole], Wishes(preset="hydraserve"), have_models=True)
    assert np.count_nonzero(np.bincount(made.model)) == 5
    assert made.prompt_tokens.max() <= 1024 >= made.answer_tokens.max()
    assert made.targets[0] == Target(7.5, 0.2)


@pytest.mark.parametrize(("given", "have"), [(at(*np.arange(100.0)), True), (TWO, False)])
def test_what_has_no_models_or_one_is_spread_over_those_that_are_wanted(given: Trace, have: bool) -> None:
    made = made_of([given], Wishes(models=3), have_models=have)
    assert "spread over 3 models with a skew of 1" in made.provenance.steps


def test_all_wishes_are_met_in_their_order() -> None:
    whole = at(*np.arange(4000.0), duration_s=4000.0)
    wishes = Wishes(
        rename={"m": "n"},
        start_s=1000.0,
        length_s=2000.0,
        cv=0.0,
        window_s=500.0,
        speed=2.0,
        rate_per_s=0.5,
        max_prompt_tokens=4,
    )
    made = made_of([whole], wishes, have_models=True)
    assert (len(made), made.duration_s, made.models, made.prompt_tokens.max()) == (500, 1000.0, ("n",), 4)
    assert [step.split()[0] for step in made.provenance.steps] == ["models", "from", "drawn", "2", "thinned", "prompts"]


def test_a_wish_that_leaves_nothing_is_not_met() -> None:
    with pytest.raises(BadWish, match="no request is left"):
        made_of([at(0.0, 9.0)], Wishes(start_s=1.0, length_s=2.0), have_models=True)
    with pytest.raises(BadWish, match="its own models"):
        Wishes(preset="hydraserve", models=3)
    with pytest.raises(BadWish, match="skew"):
        Wishes(skew=11.0)


def test_a_brain_is_fed_with_the_requests_of_a_trace() -> None:
    keys = {name: ModelKey(name, "digest") for name in TWO.models}
    assert list(arrivals(TWO, keys, start_s=100.0))[1] == Arrival(101.0, "r1", keys["b"], 20, 2, 2)
    with pytest.raises(BadWish, match="no published model stands for 'b'"):
        arrivals(TWO, {"a": keys["a"]})
