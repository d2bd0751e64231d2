"""A live run whose log is kept, replayed: the simulator stays as near to it as its page says."""

import gzip
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.honesty_clients import Seen
from benchmarks.honesty_figures import Judged, judge, results
from benchmarks.honesty_lab import Run, _check
from benchmarks.honesty_log import Log
from benchmarks.honesty_page import BEGIN, END, text, write
from benchmarks.honesty_replay import as_learned, as_reported, replay
from schedules.fitting.fitted import Fitted
from schedules.simulation.outcomes import Ending

ROOT = Path(__file__).parents[2]
LOG, PAGE = ROOT / "benchmarks" / "data" / "honesty.json.gz", ROOT / "docs" / "honesty.md"
DRIFT = 0.03
"""A change of the simulator may move the figures by so much before the page has to be written anew."""


@cache
def log() -> Log:
    return Log.read(LOG)


@cache
def learned() -> Judged:
    return judge(log(), replay(log(), as_learned(log())))


def published(row: str) -> float:
    """Of the fitted world, as a fraction."""
    found = re.search(rf"^\| {row} \|[^|]*\| ([-+]?[0-9.]+)% \|", PAGE.read_text(), re.MULTILINE)
    assert found is not None, row
    return abs(float(found[1])) / 100


def test_the_replay_is_as_near_as_the_page_says() -> None:
    """`python benchmarks/honesty.py --replay benchmarks/data/honesty.json.gz --write docs/honesty.md` writes it anew."""
    every, single = learned().every, learned().single
    assert abs(every.median) <= published("TTFT, median") + DRIFT
    assert abs(every.p95) <= published("TTFT, 95th percentile") + DRIFT
    assert abs(every.mean) <= published("TTFT, mean") + DRIFT
    assert single.mae <= published("single cold starts alike") + DRIFT
    assert every.ks_p > 0.05
    assert f": {len(log().trace)} requests for {len(log().models)} models" in PAGE.read_text()


def test_the_run_was_one_to_learn_from() -> None:
    """Bursts, consolidations, a node lost, and starts over the network, from ssd and from dram."""
    assert len(log().trace) >= 200
    assert [name for _, what, name in log().troubles if what == "node lost"] == [log().run["lost"]]
    assert sum(move["step"] == "done" for move in log().moves) >= 10
    sources = {fetch.source for start in log().replayed.starts for fetch in start.fetches}
    assert sources == {"remote", "peer", "ssd", "dram"}
    assert {start.degree for start in log().replayed.starts} >= {1, 2, 4}


def test_a_world_that_is_wrong_is_found_out() -> None:
    """The cards of one are as fast again; the steps of another take three times as long."""
    cards, steps = (
        judge(log(), replay(log(), _faster(name, times))) for name, times in (("nic", 2.0), ("decode", 1 / 3))
    )
    assert cards.single.mae > learned().single.mae + 0.1
    assert steps.tpot.compared.median > learned().tpot.compared.median + 0.5


def _faster(rate: str, times: float) -> Fitted:
    """The world that was fitted, but for one rate of all of its nodes."""
    world = as_learned(log())
    nodes = [
        replace(node, rates=dict(node.rates) | {rate: replace(node.rates[rate], mean=node.rates[rate].mean * times)})
        for node in world.nodes
    ]
    return replace(world, nodes=tuple(nodes))


def test_a_replay_serves_every_request_and_is_the_same_each_time() -> None:
    one, other = (replay(log(), as_reported(log())) for _ in range(2))
    assert (one.ending == Ending.SERVED).all()
    assert np.array_equal(one.ttft_s, other.ttft_s)


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = tmp_path / "one.json.gz", tmp_path / "other.json.gz"
    for path in paths:
        log().write(path)
        assert Log.read(path) == log()
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert LOG.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("told", "why"),
    [('{"version": 0}', "no log of version"), ('{"version": 1}', "KeyError: 'run'"), ("[]", "no log of a live run")],
    ids=["another version", "nothing in it", "a list"],
)
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path: Path, told: str, why: str) -> None:
    path = tmp_path / "other.json.gz"
    path.write_bytes(gzip.compress(told.encode()))
    with pytest.raises(ValueError, match=why):
        Log.read(path)


def test_the_page_has_what_was_found_between_its_marks_and_keeps_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nwhat was there\n{END}\nafter\n")
    write(page, text(log(), as_learned(log()), learned(), learned()))
    told = page.read_text()
    assert told.startswith(f"before\n{BEGIN}\n")
    assert told.endswith(f"\n{END}\nafter\n")
    assert "what was there" not in told
    assert f"| all requests | {len(log().trace)} |" in told
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for it"):
        write(page, "text")


def test_what_is_published_has_the_names_that_it_is_asked_for() -> None:
    names = {result.name for result in results(learned())}
    assert {
        "lab_ttft_median_error",
        "lab_ttft_p95_error",
        "lab_cold_start_mae",
        "lab_ttft_ks",
        "lab_ttft_ks_p",
    } <= names


def test_a_run_in_which_a_request_got_no_answer_is_none_to_compare_with() -> None:
    _check([Seen(ttft_s=1.0)])
    with pytest.raises(RuntimeError, match="1 requests got no answer: the front end is gone"):
        _check([Seen(ttft_s=1.0), Seen(fault="the front end is gone")])


def test_the_trace_of_a_run_is_the_same_for_a_seed_and_has_bursts() -> None:
    assert Run().trace == Run().trace != Run(seed=2).trace
    assert len(Run().trace) >= 200
