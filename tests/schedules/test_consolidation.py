"""When a pipeline becomes whole replicas by itself, how many, and where; and when a replica goes on elsewhere for a start."""

from dataclasses import replace

import pytest

from schedules import events
from schedules.actions import MoveAt
from schedules.estimates import Speeds
from schedules.facts import ModelKey, Placement, StagePlan
from schedules.lifecycle import State
from schedules.limits import MOVE_AGAIN_S, Limits
from schedules.load import KEPT, WINDOW_S, Load
from schedules.moving.consolidation import Outlook, Round, pays, penalty_s, pipeline_s
from schedules.moving.migration import copies, shift_s
from schedules.moving.plan import Kind, Step
from schedules.rates import formed
from schedules.scaling import busy_replicas, wanted_replicas
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting
from tests.schedules.models import model_of, rates_of
from tests.told import objectives_of

SLOW_HOP_S = 0.05
LARGE_BYTES = 100
SPEEDS = Speeds(10.0, 20.0, float("inf"), 100.0, 1000.0, 0.01, {1: 0.5})


def _rates(nic: float = 100.0) -> dict[str, object]:
    rates = rates_of(nic=nic, ssd=200.0, decode=1e4, prefill=1e6)
    return rates | {formed(2): rates[formed(1)]}


def _node(name: str, device_bytes: int = SIZE_BYTES, nic: float = 100.0):  # type: ignore[no-untyped-def]
    return node_named(name, device_bytes, _rates(nic))  # type: ignore[arg-type]


def _pipeline(consolidate: bool = True, requests: int = 1, **more: float) -> tuple[DrivenBrain, ModelKey]:
    """A pipeline over a and b, which have no room for more, whose hops were seen to take long."""
    driven = DrivenBrain(
        [_node("a", SIZE_BYTES // 2), _node("b", SIZE_BYTES // 2)], limits=Limits(30.0, 1000, 1000, consolidate)
    )
    books = driven.brain._books
    books.learned = books.learned.with_hop(SLOW_HOP_S)
    driven.run_s = 100.0
    key = driven.know(model_named("m"), wanting(**{"max_degree": 2, "keep_alive_s": 60.0, **more}))
    for _ in range(requests):
        driven.ask(key, tokens=(24, 500))
    driven.run(2.0)
    assert driven.starts()[0].placement.degree == 2
    return driven, key


# ---- by itself


def test_a_pipeline_becomes_whole_as_soon_as_there_is_room_and_says_why() -> None:
    driven, _ = _pipeline()
    driven.run(5.0)
    assert not driven.plans
    driven.join(_node("c"))
    driven.run(5.0)
    (plan,) = driven.plans.values()
    assert (plan.kind, plan.wish) == (Kind.CONSOLIDATE, "")
    assert "ms later" in plan.reason
    assert plan.predicted_s["ready"] == pytest.approx(0.5)
    assert driven.steps[plan.move][-1] is Step.DONE
    assert [len(r.nodes) for r in driven.brain.replicas()] == [1]
    driven.run(10.0)
    assert len(driven.plans) == 1


def test_without_leave_pipelines_stay_what_they_are_but_for_an_operator() -> None:
    driven, _ = _pipeline(consolidate=False)
    driven.join(_node("c"))
    driven.run(10.0)
    assert not driven.plans
    driven.tell(events.ConsolidationWanted("w", "m"))
    driven.run(5.0)
    assert [len(r.nodes) for r in driven.brain.replicas()] == [1]


def test_what_was_given_up_is_not_tried_again_at_once() -> None:
    driven, _ = _pipeline()
    driven.join(_node("c"))
    driven.answers.append("failed")
    driven.run(10.0)
    assert len(driven.plans) == 1
    driven.run(MOVE_AGAIN_S + 5.0)
    assert [steps[-1] for steps in driven.steps.values()] == [Step.GIVEN_UP, Step.DONE]


def test_under_a_burst_a_pipeline_becomes_several_whole_replicas_on_different_nodes() -> None:
    driven, _ = _pipeline(requests=40, max_replicas=3, kv_tokens=1 << 20)
    driven.brain._services[model_named("m").key].load.over(20_000)
    for name in "cde":
        driven.join(_node(name))
    driven.run(5.0)
    (plan,) = driven.plans.values()
    heirs = plan.handovers[0].heirs
    assert len(heirs) == 3
    assert len({heir.placement.stages[0].node for heir in heirs}) == 3
    driven.run(5.0)
    assert driven.steps[plan.move][-1] is Step.DONE
    used = [len(replica.requests) for replica in driven.brain.replicas()]
    assert sum(used) == 40
    assert max(used) - min(used) <= 1


def test_a_pipeline_that_nobody_is_expected_at_any_more_is_left_alone() -> None:
    driven = DrivenBrain([_node("a", SIZE_BYTES // 2), _node("b", SIZE_BYTES // 2)])
    driven.ask(driven.know(model_named("m"), wanting(max_degree=2, keep_alive_s=20.0)))
    driven.run(12.0)
    driven.join(_node("c"))
    driven.run(6.0)
    assert not driven.plans


# ---- whether it pays


def _placement(*reserved: int) -> Placement:
    stages = [StagePlan(f"n{i}", i, i + 1, (), size, 0) for i, size in enumerate(reserved)]
    return Placement("m", tuple(stages), 1, ())


def test_a_token_is_later_by_its_hops_or_by_what_was_seen() -> None:
    stages = [(50, SPEEDS), (50, SPEEDS)]

    def later_s(hop_s: float, seen_s: float | None, late_s: float | None = None) -> tuple[float, float]:
        return penalty_s(pipeline_s(stages, hop_s, seen_s, late_s), 100, SPEEDS)

    assert later_s(0.01, None) == pytest.approx((0.02, 0.02))
    assert later_s(0.01, 1.5) == pytest.approx((0.5, 0.02))
    assert later_s(0.01, None, late_s=0.3) == pytest.approx((0.02, 0.3))
    assert later_s(0.01, None, late_s=0.0) == pytest.approx((0.02, 0.0)), "hops that cost nothing, as it was seen"
    assert later_s(0.0, None) == pytest.approx((0.0, 0.0))


def test_it_pays_if_its_tokens_are_later_by_more_than_it_costs() -> None:
    pipeline, whole = _placement(50, 50), _placement(100)

    def why(tokens: float, kept_s: float = 100.0, ready_s: float = 10.0, more: int = 0, vectors: float = 0.0) -> str:
        outlook, over = Outlook(tokens, kept_s, 1, vectors), _placement(50, 50 + more)
        return pays(outlook, Round(0.01, 0.02), over if more else pipeline, whole, ready_s, 0.1)

    assert not why(10)
    assert why(100)
    assert not why(100, kept_s=10.0), "it would be whole when nobody is there"
    assert not why(0)
    assert "has 0.0 GB that a whole replica has not, for 100 s" in why(0, more=50)
    assert not why(0, vectors=10)
    assert "gives each vector 20.0 ms later: 1.81 s over the 100 that" in why(1, vectors=100)


def test_a_kv_cache_is_copied_if_that_is_sooner_than_to_compute_it() -> None:
    fat, lean = model_of([1, 40, 40, 1], kv_bytes_per_token=100), model_of([1, 40, 40, 1], kv_bytes_per_token=1)
    to = Placement("model", (StagePlan("a", 0, 2, (), 82, 0),), 1, ())
    assert not copies(fat, to, 10, [SPEEDS])
    assert copies(lean, to, 5, [SPEEDS])
    assert copies(fat, to, 10, [None]), "nobody knows, and what cannot be copied is computed"
    assert shift_s(lean, to, 5, [SPEEDS]) == pytest.approx(0.5)
    assert shift_s(fat, to, 10, [SPEEDS]) == pytest.approx(0.82)


# ---- how many


def test_arrivals_are_counted_for_a_while_and_a_flood_by_its_speed() -> None:
    load = Load()
    for at_s in range(5):
        load.arrived(float(at_s))
    assert load.per_s(4.0) == pytest.approx(5 / WINDOW_S)
    assert load.per_s(100.0) == 0.0
    for index in range(10 * KEPT):
        load.arrived(200.0 + index / 1000)
    assert load.per_s(200.64) == pytest.approx(1000, rel=0.05)


def test_answers_have_what_they_had_of_late() -> None:
    load = Load()
    load.over(0)
    assert load.mean_tokens is None
    load.over(100)
    load.over(200)
    assert load.mean_tokens == pytest.approx(125)


def test_as_many_replicas_as_what_comes_keeps_busy() -> None:
    goal = objectives_of(max_replicas=9, kv_tokens=640)
    one_s = 1.0  # a step of 100 bytes
    assert busy_replicas(goal, 100, SPEEDS, 0.0, 0.0, 8.0, 64) == 0
    assert busy_replicas(goal, 100, SPEEDS, 1.0, 0.0, 10.0, 64) == 1, "ten requests a step"
    assert busy_replicas(goal, 100, SPEEDS, 3.0, 0.0, 10.0, 64) == 3
    assert busy_replicas(goal, 100, SPEEDS, 0.0, 400.0, 10.0, 64) == 4, "what waits is to be over in ten seconds"
    slow = objectives_of(max_replicas=9, kv_tokens=64_000, tpot_s=one_s)
    assert busy_replicas(slow, 100, SPEEDS, 8.0, 0.0, 10.0, 64) == 10, "no more at once than the time per token lets it"


def test_who_is_busy_wants_more_replicas_up_to_the_most() -> None:
    goal = objectives_of(max_replicas=3, kv_tokens=100)
    assert [wanted_replicas(goal, 100, busy) for busy in (0, 2, 9)] == [1, 2, 3]


def test_a_replica_that_is_kept_busy_gets_another_although_there_is_memory() -> None:
    driven = DrivenBrain([_node("a"), _node("b")])
    driven.run_s = 100.0
    key = driven.know(model_named("m"), wanting(max_replicas=2, kv_tokens=1 << 20))
    driven.ask(key)
    driven.run(2.0)
    driven.brain._services[key].load.over(100_000)
    for _ in range(200):
        driven.ask(key)
    driven.run(2.0)
    assert driven.states() == [State.SERVING] * 2


# ---- starts for which others go on elsewhere


def test_a_busy_replica_goes_on_elsewhere_for_a_start_that_fits_only_there() -> None:
    """Its own node is the only one with memory for the other model."""
    driven = DrivenBrain([_node("a", LARGE_BYTES), _node("b")])
    driven.run_s = 100.0
    driven.tell(events.NodeDrained("b"))
    busy = driven.ask(driven.know(model_named("m")))
    driven.run(2.0)
    driven.tell(events.NodeUndrained("b"))
    assert driven.brain.replicas()[0].nodes == ("a",)
    waits = driven.ask(_larger(driven))
    driven.run(5.0)
    moves = [action for action in driven.actions(MoveAt) if isinstance(action, MoveAt)]
    assert [move.plan.kind for move in moves][:1] == [Kind.MIGRATE]
    assert moves[0].plan.node == "a"
    assert driven.running(waits) is not None
    assert {r.service.model.name: r.nodes for r in driven.brain.replicas()}["m"] == ("b",)
    assert driven.running(busy) is not None
    assert driven.assigned[busy] == ["g1"], "it noticed nothing"
    driven.check()


def _larger(driven: DrivenBrain) -> ModelKey:
    """A model that takes all of a, and whose stages do not fit beside one of the others."""
    model = model_named("large")
    units = tuple(replace(unit, size_bytes=LARGE_BYTES // 4) for unit in model.units)
    return driven.know(replace(model, units=units))


def test_if_it_does_not_come_to_that_the_start_is_decided_again() -> None:
    driven = DrivenBrain([_node("a", LARGE_BYTES), _node("b")])
    driven.run_s = 6.0
    driven.tell(events.NodeDrained("b"))
    driven.ask(driven.know(model_named("m")))
    driven.run(2.0)
    driven.tell(events.NodeUndrained("b"))
    driven.answers.append("failed")
    waits = driven.ask(_larger(driven))
    driven.run(1.0)
    (plan,) = driven.plans.values()
    assert driven.steps[plan.move][-1] is Step.GIVEN_UP
    driven.check()
    driven.run(15.0)
    assert len(driven.plans) == 1, "not again at once"
    assert driven.running(waits) is not None or waits in driven.ended
