"""A world is fitted to what happened: it finds the constants of a cluster that is known, and says how good it is."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.fitting.errors import TooLittle
from schedules.fitting.fit import FEWEST_STARTS, fit
from schedules.fitting.fitted import RECEIVE, TAIL, Fitted, Quantity, Whence
from schedules.fitting.replaying import Ground, replay
from schedules.fitting.seen import Happened
from schedules.objectives import Objectives
from schedules.simulation.scenario import Offered, Scenario
from schedules.systems.system import OURS, Keeps, Startup
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from schedules.world.habits import Habits
from tests.schedules.fitting.histories import happened_in, reporting
from tests.schedules.worlds import world_model, world_node

MB = 1_000_000
WANTED = Objectives(None, None, 0, 1, keep_alive_s=20.0, priority=0, max_degree=1, kv_tokens=1024)
TRACE = synthesise(Recipe(numbered(6, ["40:0.5/20:0.5"]), 0.2, 900.0, max_tokens=64), seed=3)
TRUE = (
    world_node("n0", device_bytes=130 * MB, nic=100.0 * MB, ssd=220.0 * MB, formed=0.4, decode=4e9),
    world_node("n1", device_bytes=130 * MB, nic=100.0 * MB, ssd=220.0 * MB, formed=0.4, decode=4e9),
    world_node("n2", device_bytes=200 * MB, nic=50.0 * MB, ssd=150.0 * MB, formed=0.7, decode=3e9),
)
REPORTED = tuple(reporting(node, nic=180.0 * MB, ssd=400.0 * MB, formed_1=0.2, decode=1e10) for node in TRUE)
KEEPS_ON_SSD = replace(OURS, keeps=Keeps(dram=False))
OFFERED = {name: Offered(world_model(name), WANTED) for name in TRACE.models}
SCENARIO = Scenario(
    REPORTED, tuple(OFFERED[name] for name in TRACE.models), TRACE, KEEPS_ON_SSD, Habits(receive_s=0.05),
    {node.name: Startup(tail_s=0.3) for node in TRUE}, {node.name: node.rates for node in TRUE},
)  # fmt: skip
GROUND = Ground(REPORTED, OFFERED, KEEPS_ON_SSD)


@pytest.fixture(scope="module")
def happened() -> Happened:
    return happened_in(SCENARIO)


@pytest.fixture(scope="module")
def fitted(happened: Happened) -> Fitted:
    return fit(happened, GROUND)


def of(world: Fitted, node: str, name: str) -> Quantity:
    return next(each for each in world.quantities if (each.node, each.name) == (node, name))


def test_it_finds_the_constants_that_a_cluster_has_and_does_not_know_of(fitted: Fitted) -> None:
    for node, true in zip(fitted.nodes, TRUE, strict=True):
        for name in ("nic", "ssd", "decode", "formed.1"):
            assert node.rates[name].mean == pytest.approx(true.rates[name].mean, rel=0.04), (node.name, name)
    assert fitted.habits.receive_s == pytest.approx(0.05, abs=0.005)
    assert fitted.startups["n0"].tail_s == pytest.approx(0.3, abs=0.02)


def test_it_says_of_each_what_was_reported_and_where_the_fit_is_from(fitted: Fitted) -> None:
    ssd, reach = of(fitted, "n0", "ssd"), of(fitted, "n0", "reach")
    assert (ssd.reported, ssd.whence) == (400.0 * MB, Whence.OWN)
    assert ssd.samples >= 3
    assert (reach.value, reach.reported, reach.whence, reach.samples) == (0.01, 0.01, Whence.REPORTED, 0)
    assert of(fitted, "", TAIL).whence is of(fitted, "", RECEIVE).whence is Whence.PLAYED


def test_it_is_judged_by_what_it_does_not_know_and_is_better_than_what_nodes_say(fitted: Fitted) -> None:
    quality = fitted.quality
    assert quality is not None
    for played in (quality.reported, quality.fitted):
        assert played.starts is not None
        assert played.cold is not None
        assert played.all is not None
    before, after = quality.reported.starts, quality.fitted.starts
    assert before is not None
    assert after is not None
    assert before.mean > 0.4
    assert after.mean < 0.05
    assert quality.fitted.cold is not None
    assert abs(quality.fitted.cold.median) < 0.05
    assert quality.fitted.starts_seen == quality.fitted.starts_played


def test_in_the_true_world_everything_happens_as_it_did(happened: Happened) -> None:
    played = replay(Fitted(TRUE, SCENARIO.habits, SCENARIO.startups), happened, GROUND)
    assert np.allclose(played.played_s, played.seen_s, atol=1e-3)
    assert (played.played_cold == played.seen_cold).all()
    assert played.alike == played.starts.keys()
    assert len(played.alike) == len(happened.starts)


def test_a_few_starts_that_went_wrong_change_little(happened: Happened) -> None:
    starts = list(happened.starts)
    for place in range(0, len(starts), 8):
        hung = tuple(replace(fetch, ended_s=fetch.ended_s + 30.0) for fetch in starts[place].fetches)
        starts[place] = replace(starts[place], fetches=hung, ttft_s=starts[place].ttft_s + 30.0)
    world = fit(replace(happened, starts=tuple(starts)), GROUND)
    assert of(world, "n0", "nic").value == pytest.approx(100.0 * MB, rel=0.05)
    assert sum(quantity.outliers for quantity in world.quantities) > 0
    assert world.startups["n0"].tail_s == pytest.approx(0.3, abs=0.03)


def test_a_node_that_was_hardly_used_is_as_far_off_as_those_like_it(happened: Happened) -> None:
    without = tuple(start for start in happened.starts if start.nodes != ("n1",))
    world = fit(replace(happened, starts=without), GROUND)
    ssd = of(world, "n1", "ssd")
    assert (ssd.whence, ssd.value) == (Whence.ALIKE, pytest.approx(220.0 * MB, rel=0.05))


def test_the_newest_weigh_most(happened: Happened) -> None:
    """A card that was replaced half way is as fast as it is now."""
    half_s = happened.since_s + TRACE.duration_s / 3

    def slower(begun_s: float, ended_s: float) -> float:
        return ended_s if begun_s > half_s else begun_s + 2 * (ended_s - begun_s)

    starts = tuple(
        replace(s, fetches=tuple(replace(f, ended_s=slower(f.begun_s, f.ended_s)) for f in s.fetches))
        for s in happened.starts
    )
    world = fit(replace(happened, starts=starts), GROUND)
    assert of(world, "n0", "ssd").value == pytest.approx(220.0 * MB, rel=0.05)


def test_too_few_starts_are_counted(happened: Happened) -> None:
    few = replace(happened, starts=happened.starts[: FEWEST_STARTS - 1])
    with pytest.raises(TooLittle, match=r"has 8 cold starts in the 0\.2 hours: a fit takes at least 9"):
        fit(few, GROUND)
    with pytest.raises(TooLittle, match=r"has 0 cold starts, and \d+ more on nodes or of models that are gone"):
        fit(happened, replace(GROUND, offered={}))


def test_nodes_that_have_measured_nothing_cannot_be_played(happened: Happened) -> None:
    with pytest.raises(TooLittle, match="node n1 has not measured how fast it is yet"):
        fit(happened, replace(GROUND, nodes=(REPORTED[0], replace(REPORTED[1], rates={}))))
    with pytest.raises(TooLittle, match="there is no node"):
        fit(happened, replace(GROUND, nodes=()))


def test_old_requests_without_times_are_judged_by_their_starts(happened: Happened) -> None:
    """What an older front end kept has no TTFT, but those of starts are in the starts."""
    old = tuple(each._replace(ttft_s=None, last_s=None, cold=None) for each in happened.asked)
    world = fit(replace(happened, asked=old), GROUND)
    assert world.quality is not None
    assert world.quality.fitted.all == world.quality.fitted.cold
    assert of(world, "", RECEIVE).whence is Whence.REPORTED
    assert of(world, "n0", "ssd").whence is Whence.OWN


def test_time_in_which_nothing_runs_is_cut_and_changes_nothing(happened: Happened) -> None:
    """A day's silence would else be played second by second."""
    part = happened.part(happened.since_s, happened.since_s + 300.0)
    day_s = 86_400.0
    later_asked = tuple(each._replace(at_s=each.at_s + day_s) for each in part.asked)
    twice = replace(part, until_s=part.until_s + day_s, asked=(*part.asked, *later_asked))
    world, ground = Fitted(TRUE, SCENARIO.habits, SCENARIO.startups), replace(GROUND, nodes=TRUE)
    once, played = replay(world, part, ground), replay(world, twice, ground)
    assert np.allclose(once.played_s, played.played_s[: len(part.asked)], atol=1e-3)
    assert played.played_cold[len(part.asked)]
    assert played.played_starts_at_s[-1] > part.since_s + day_s
