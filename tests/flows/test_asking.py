"""Wishes as they are typed, made questions; and what cannot be meant, a sentence each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from flows.errors import NotATrace, Unclear
from flows.planning.asking import Known, Wishes, question_of
from flows.trace_files import save
from schedules.capacity.errors import BadQuestion
from schedules.capacity.question import PlanQuestion
from schedules.facts import Model, Rate
from schedules.fitting.errors import BadWorld
from schedules.fitting.fitted import Fitted
from schedules.fitting.world_file import to_json
from schedules.systems.system import OURS, Startup
from schedules.traces.errors import BadWish
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from schedules.traces.trace import Target, Trace
from schedules.world.habits import Habits
from tests.schedules.worlds import world_model, world_node

TRACE = synthesise(Recipe(numbered(3, ["40:0.5/20:0.5"]), 0.5, 200.0, max_tokens=64), seed=1)
ASKED = Wishes("", "a10=1.20", keep_alive="300s", degree=4, kv_tokens=16384, models="8b")


@dataclass
class Store:
    """Published models of these names."""

    published: Sequence[str] = ()
    opened: list[str] = field(default_factory=list)

    def names(self) -> Sequence[str]:
        """All of them."""
        return self.published

    def model(self, name: str) -> Model:
        """Noted."""
        self.opened.append(name)
        return world_model(name)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """TRACE as a file."""
    save(TRACE, tmp_path / "small.npz")
    return tmp_path / "small.npz"


def asked(trace: Path | str, store: Store | None = None, **wishes: object) -> PlanQuestion:
    """The question of such wishes."""
    changed = replace(ASKED, trace=str(trace), **wishes)  # type: ignore[arg-type]
    return question_of(changed, store or Store(), Known([world_node("n1")])).question


# ---- the trace


def test_a_trace_is_taken_from_a_file_of_ours_or_of_others(stored: Path, tmp_path: Path) -> None:
    assert asked(stored).trace == TRACE
    recorded = tmp_path / "day1.csv"
    recorded.write_text("time,model,prompt,answer\n" + "".join(f"{i},m,10,5\n" for i in range(60)))
    assert asked(recorded).trace.models == ("m",)


def test_of_a_trace_only_so_much_is_taken_at_the_rate_that_is_wanted(stored: Path) -> None:
    trace = asked(stored, duration="100s", rate="2").trace
    assert (trace.duration_s, len(trace)) == (100.0, 200)


def test_without_a_trace_one_is_made_up_with_a_model_for_each_that_is_named() -> None:
    trace = asked("", rate="2", duration="5min", models="8b,70b").trace
    assert (trace.duration_s, len(trace.models)) == (300.0, 2)
    assert len(trace) / 300 == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("missing", ["rate", "duration", "models"])
def test_without_a_trace_all_that_one_is_made_of_is_needed(missing: str) -> None:
    wishes = {"rate": "2", "duration": "5min", "models": "8b", missing: ""}
    with pytest.raises(Unclear, match="name a trace, or rate, duration and models"):
        asked("", **wishes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "empty|no requests|nothing"),
        ("when,who\n1,a\n", "column"),
        ("time,model,prompt,answer\n1,a,-5,5\n", "-5"),
        ("time,model,prompt,answer\n1,a,many,5\n", "many"),
    ],
    ids=["empty", "unknown columns", "negative lengths", "lengths that are no numbers"],
)
def test_a_file_that_is_no_trace_says_why(tmp_path: Path, content: str, sentence: str) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(content)
    with pytest.raises(NotATrace, match=sentence):
        asked(bad)


def test_what_is_not_in_order_is_put_in_order(tmp_path: Path) -> None:
    recorded = tmp_path / "mixed.csv"
    recorded.write_text("time,model,prompt,answer\n9,m,1,1\n0,m,2,2\n5,m,3,3\n")
    assert asked(recorded).trace.prompt_tokens.tolist() == [2, 3, 1]


def test_a_trace_that_has_no_requests_left_says_so(stored: Path) -> None:
    first_s = float(TRACE.at_s[0])
    with pytest.raises(Unclear, match="without requests"):
        asked(stored, duration=f"{first_s / 2:.3f}s", rate="1")
    with pytest.raises(BadWish):
        asked(stored, rate="1e9")


# ---- the models


def test_published_models_of_the_same_name_are_themselves_and_stand_for_the_others_in_turn(stored: Path) -> None:
    store = Store(("model-1", "other"))
    question = asked(stored, store, models="")
    models = {name: offered.model for name, offered in zip(TRACE.models, question.models, strict=True)}
    assert models["model-1"] == world_model("model-1")
    calls = np.bincount(TRACE.model)
    first, second = sorted((0, 2), key=lambda place: -calls[place])
    assert models[f"model-{first}"].digests == tuple(f"model-{first}/{each}" for each in world_model("model-1").digests)
    assert models[f"model-{second}"].digests == tuple(f"model-{second}/{each}" for each in world_model("other").digests)
    assert not set(models["model-0"].digests) & set(models["model-2"].digests)
    assert sorted(store.opened) == ["model-1", "other"]
    note = question_of(replace(ASKED, trace=str(stored), models=""), store, Known()).notes
    assert note == ("Models of the trace are taken for what they are not published as: 1 like model-1, 1 like other.",)


def test_sizes_stand_for_models_by_pattern_and_in_turn(stored: Path) -> None:
    sizes = [offered.model.size_bytes / 2e9 for offered in asked(stored, models="model-2=70b,8b").models]
    assert sizes == pytest.approx([8.03, 8.03, 70.55], rel=1e-3)


def test_nothing_that_stands_for_a_model_is_a_sentence(stored: Path) -> None:
    with pytest.raises(
        Unclear, match=r"model-0, model-1, model-2, and none is published: give sizes, as --models 8b,70b"
    ):
        asked(stored, models="")
    with pytest.raises(Unclear, match=r"which model stands for model-0, model-2$"):
        asked(stored, models="model-1=8b")
    with pytest.raises(BadQuestion, match="nobody knows how large 'huge' is"):
        asked(stored, models="huge")


def _targeted() -> Trace:
    return replace(TRACE, targets=(Target(3.0, 0.2), Target(3.0, None), Target()))


def test_levels_are_the_traces_where_none_are_typed(tmp_path: Path) -> None:
    save(_targeted(), tmp_path / "t.npz")
    wanted = [
        offered.objectives for offered in asked(tmp_path / "t.npz", slo_ttft="model-1=1s", keep_alive="1min").models
    ]
    assert [(each.ttft_s, each.tpot_s) for each in wanted] == [(3.0, 0.2), (1.0, None), (None, None)]
    assert {each.keep_alive_s for each in wanted} == {60.0}
    wanted = [offered.objectives for offered in asked(tmp_path / "t.npz", slo_ttft="2s", slo_tpot="50ms").models]
    assert {(each.ttft_s, each.tpot_s) for each in wanted} == {(2.0, 0.05)}


def test_a_level_of_nothing_is_none(stored: Path) -> None:
    with pytest.raises(Unclear, match="the TPOT: nothing comes within 0 s"):
        asked(stored, slo_tpot="0s")


# ---- the machines


def test_examples_are_taken_at_the_price_that_is_told(stored: Path) -> None:
    types = asked(stored, node_types="A10=1.20, h100", price="4").choices.types
    assert [(kind.name, kind.price_per_h) for kind in types] == [("A10", 1.2), ("H100", 4.0)]


def test_the_running_cluster_is_its_machines_as_measured_and_its_store(stored: Path) -> None:
    node = world_node("n1", store_bytes_per_s=5e8)
    wishes = replace(ASKED, trace=str(stored), node_types="cluster=2")
    assert wishes.of_cluster
    choices = question_of(wishes, Store(), Known([node, world_node("n2")])).question.choices
    (kind,) = choices.types
    assert (kind.price_per_h, kind.device_bytes, kind.rates["nic"].mean) == (
        2.0,
        node.device_bytes,
        node.rates["nic"].mean,
    )
    assert choices.store_bytes_per_s == 5e8
    assert question_of(replace(wishes, store="1GB"), Store(), Known([node])).question.choices.store_bytes_per_s == 1e9
    by_type = question_of(replace(wishes, node_types="machine=3"), Store(), Known([node])).question.choices
    assert by_type.types[0].price_per_h == 3.0


def test_a_cluster_that_has_measured_nothing_says_what_to_do(stored: Path) -> None:
    with pytest.raises(BadQuestion, match="firsttoken calibrate"):
        question_of(replace(ASKED, trace=str(stored), node_types="cluster=2"), Store(), Known())


@pytest.mark.parametrize(
    ("node_types", "sentence"),
    [
        ("", "nothing says which machines may be had: give them with their prices, as h100=4.10"),
        ("h100", "nothing says what an hour of 'h100' costs: give it as h100=4.10"),
        ("cluster", "nothing says what an hour of 'cluster' costs"),
        ("h100=cheap", "the price of 'h100': 'cheap' is no number"),
        ("h100=-1", "the price of 'h100': '-1' is no number from 0 on"),
        ("tpu=1", "nothing is known of machines 'tpu': examples are L4, A10, "),
    ],
)
def test_machines_that_cannot_be_meant(stored: Path, node_types: str, sentence: str) -> None:
    with pytest.raises((Unclear, BadQuestion), match=sentence):
        asked(stored, node_types=node_types)


TOML = """
[small]
like = "A10"
price_per_h = 0.9
dram_bytes = "64GiB"

[own]
nodes = 2
device_bytes = "24GB"
dram_bytes = 5000000000
ssd_bytes = "1TB"
rates = {nic = 1.25e9, ssd = 3e9, bus = 20e9, decode = 1e12, prefill = 1e14, formed.1 = 0.3}
"""


def test_machines_of_ones_own_are_read_from_a_file(stored: Path, tmp_path: Path) -> None:
    file = tmp_path / "types.toml"
    file.write_text(TOML)
    small, own = asked(stored, node_types=str(file), price="2").choices.types
    assert (small.name, small.price_per_h, small.dram_bytes, small.device_bytes) == ("small", 0.9, 64 << 30, 23 * 10**9)
    assert (own.price_per_h, own.nodes, own.ssd_bytes, own.rates["formed.1"]) == (2.0, 2, 10**12, Rate(0.3, 0.3, 1))
    as_json = tmp_path / "types.json"
    as_json.write_text(json.dumps({"small": {"like": "A10", "price_per_h": 0.9, "dram_bytes": "64GiB"}}))
    assert asked(stored, node_types=str(as_json)).choices.types == (small,)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no node types"),
        ("[a", "has no node types: "),
        ("a = 1", "a is no table"),
        ("[a]\nlike = 'A10'\nprice = 1", "has no key 'price': those are context_bytes, "),
        ("[a]\nlike = 'A10'", "nothing says what an hour of 'a' costs"),
        ("[a]\nlike = 'B'\nprice_per_h = 1", "nothing is known of machines 'B'"),
        ("[a]\nlike = 'A10'\nprice_per_h = 1\ndram_bytes = 'much'", "dram_bytes: 'much' is no size"),
        ("[a]\nlike = 'A10'\nprice_per_h = 1\nnodes = 'two'", "nodes: 'two' is no number of nodes"),
        ("[a]\nlike = 'A10'\nprice_per_h = 1\nrates = 5", "rates is no table"),
        ("[a]\nlike = 'A10'\nprice_per_h = 1\n[a.rates]\nnic = 'fast'", "rates.nic: 'fast' is no number"),
    ],
)
def test_a_file_of_machines_that_cannot_be_meant(stored: Path, tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "types.toml"
    file.write_text(content)
    with pytest.raises((Unclear, BadQuestion), match=sentence):
        asked(stored, node_types=str(file))


def test_a_fitted_world_says_what_its_machines_are_like_and_how_they_start(stored: Path, tmp_path: Path) -> None:
    nodes = (world_node("n1"), world_node("n2"))
    fitted = Fitted(nodes, Habits(hop_s=0.007), {"n1": Startup(tail_s=0.1), "n2": Startup(tail_s=0.3)})
    file = tmp_path / "world.json"
    file.write_text(json.dumps(to_json(fitted)))
    wishes = replace(ASKED, trace=str(stored), node_types="cluster=2", world=str(file))
    assert not wishes.of_cluster
    question = question_of(wishes, Store(), Known()).question
    means = {name: rate.mean for name, rate in question.choices.types[0].rates.items()}
    assert means == {name: rate.mean for name, rate in nodes[0].rates.items()}
    assert (question.habits.hop_s, question.system.startup) == (0.007, replace(OURS.startup, tail_s=0.2))


def test_a_file_that_holds_no_world_says_so(stored: Path, tmp_path: Path) -> None:
    file = tmp_path / "world.json"
    for content in ("{", "{}"):
        file.write_text(content)
        with pytest.raises(BadWorld, match=r"no JSON|no world of ours"):
            asked(stored, world=str(file))
