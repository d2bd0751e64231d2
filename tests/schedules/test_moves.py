"""A replica makes way for those that follow it: step by step, and whatever goes wrong on the way."""

from dataclasses import replace

import pytest

from schedules import events
from schedules.actions import MoveAt, Record, Refuse, Shift, Start, Stop
from schedules.facts import ModelKey
from schedules.lifecycle import State
from schedules.limits import MOVE_PATIENCE_S, SHIFTS_AT_ONCE
from schedules.moving.plan import Kind, Plan, Step
from schedules.service import Replica
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting

ALL = [Step.ORDERED, Step.PREPARING, Step.READY, Step.SWITCHING, Step.DONE]
PIPELINE = {"kv_tokens": 1024, "max_degree": 2, "keep_alive_s": 1000.0}


def _pipeline(
    requests: int = 1, free_bytes: int = SIZE_BYTES, **more: float
) -> tuple[DrivenBrain, ModelKey, list[str]]:
    """A pipeline over a and b, with long requests, and c, which has so much room."""
    driven = DrivenBrain([node_named("a", SIZE_BYTES // 2), node_named("b", SIZE_BYTES // 2)])
    driven.run_s = 100.0
    key = driven.know(model_named("m"), wanting(**{**PIPELINE, **more}))
    names = [driven.ask(key) for _ in range(requests)]
    driven.run(2.0)
    driven.join(node_named("c", free_bytes))
    assert driven.starts()[0].placement.degree == 2
    return driven, key, names


def _consolidate(driven: DrivenBrain, node: str = "") -> str:
    """The move that follows the wish."""
    actions = driven.tell(events.ConsolidationWanted("w", "m", node))
    (plan,) = [action.plan for action in actions if isinstance(action, MoveAt)]
    return plan.move


def _sentence(driven: DrivenBrain, event: events.Event) -> str:
    """Why the wish is refused, which changes nothing."""
    before = driven.states()
    actions = [action for action in driven.tell(event) if isinstance(action, Refuse | MoveAt)]
    assert driven.states() == before
    driven.check()
    (refused,) = actions
    assert isinstance(refused, Refuse)
    return refused.sentence


def _reason(driven: DrivenBrain, move: str) -> str:
    """Why it was given up."""
    (reason,) = [a.reason for a in driven.actions(MoveAt) if a.plan.move == move and a.step is Step.GIVEN_UP]  # type: ignore[attr-defined]
    return str(reason)


def _replica(driven: DrivenBrain, group: str) -> Replica:
    return driven.brain._fleet.replicas[group]


def _heir(plan: Plan) -> str:
    return plan.handovers[0].heirs[0].group


# ---- the way of a move


def test_a_pipeline_becomes_one_whole_replica_and_its_requests_go_on_there() -> None:
    driven, _, names = _pipeline(3)
    move = _consolidate(driven)
    plan = driven.plans[move]
    assert (plan.kind, plan.wish, plan.handovers[0].group) == (Kind.CONSOLIDATE, "w", "g1")
    assert plan.handovers[0].heirs[0].placement.degree == 1
    driven.run(3.0)
    assert driven.steps[move] == ALL
    assert [driven.running(name) for name in names] == [_heir(plan)] * 3
    assert driven.states() == [State.SERVING]
    assert [stop.group for stop in driven.actions(Stop)] == ["g1"]  # type: ignore[attr-defined]
    driven.check()
    driven.run(200.0)
    assert set(names) <= driven.ended.keys()
    assert not driven.rejected


def test_heirs_start_behind_and_no_start_of_theirs_is_recorded() -> None:
    driven, *_ = _pipeline()
    _consolidate(driven)
    driven.run(3.0)
    assert [start.behind for start in driven.starts()] == [False, True]
    assert len(driven.actions(Record)) == 1
    assert not driven.brain._books._links.transfers, "what it fetched is in the books no more"


def test_nothing_is_ordered_before_whoever_carries_it_out_goes_on() -> None:
    driven, *_ = _pipeline()
    driven.go_on_s = None
    move = _consolidate(driven)
    driven.run(3.0)
    assert (driven.steps[move], len(driven.starts())) == ([Step.ORDERED], 1)
    driven.tell(events.MoveGoOn(move))
    driven.tell(events.MoveGoOn(move))
    driven.run(3.0)
    assert driven.steps[move] == [Step.ORDERED, Step.PREPARING, Step.READY]
    assert driven.states() == [State.SERVING, State.SERVING]
    driven.tell(events.MoveGoOn(move))
    driven.run(3.0)
    assert driven.steps[move] == ALL


def test_what_comes_while_heirs_are_prepared_goes_to_the_old_one_then_to_who_has_least_to_do() -> None:
    driven, key, _ = _pipeline()
    driven.go_on_s = None
    move = _consolidate(driven)
    driven.tell(events.MoveGoOn(move))
    assert driven.running(driven.ask(key)) == "g1"
    driven.run(2.0)
    heir = _heir(driven.plans[move])
    assert driven.running(driven.ask(key)) == heir
    driven.shift_s = 1000.0
    driven.tell(events.MoveGoOn(move))
    assert [driven.running(driven.ask(key)) for _ in range(3)] == [heir] * 3
    driven.check()


def test_requests_go_over_one_after_the_other() -> None:
    driven, *_ = _pipeline(10)
    _consolidate(driven)
    driven.shift_s = 0.5
    driven.run(1.2)
    assert len(driven.actions(Shift)) == SHIFTS_AT_ONCE
    driven.check()
    driven.run(0.5)
    assert SHIFTS_AT_ONCE < len(driven.actions(Shift)) <= 2 * SHIFTS_AT_ONCE
    driven.run(5.0)
    assert len(driven.shifts) == 10


def test_while_a_request_is_shifted_it_has_a_room_at_both_and_is_asked_for_once() -> None:
    driven, *_ = _pipeline()
    plan = driven.plans[_consolidate(driven)]
    driven.shift_s = 1000.0
    driven.run(2.0)
    old, heir = _replica(driven, "g1"), _replica(driven, _heir(plan))
    assert old.used_tokens == heir.used_tokens == 64
    assert old.service.demand().room_tokens == 64
    assert old.service.coming == [heir]


@pytest.mark.parametrize("how", ["ended", "left", "refused"])
def test_a_request_that_is_over_while_it_is_shifted_leaves_both(how: str) -> None:
    driven, _, (name,) = _pipeline()
    move = _consolidate(driven)
    driven.shift_s = 1000.0
    driven.run(2.0)
    if how == "left":
        driven.leave(name)
    elif how == "refused":
        driven.tell(events.RequestRefused(name, "g1", "as it is"))
    else:
        driven._end(name, 1)
    driven.check()
    driven.run(1.0)
    assert driven.steps[move] == ALL
    assert _replica(driven, _heir(driven.plans[move])).used_tokens == 0
    driven.tell(events.RequestShifted(name, "g1", _heir(driven.plans[move])))
    driven.check()


def test_who_stays_is_tried_once_more_and_then_ends_where_it_is() -> None:
    driven, _, names = _pipeline(2)
    driven.staying = [names[0], names[1], names[1]]
    move = _consolidate(driven)
    driven.run(5.0)
    assert [driven.running(name) for name in names] == [_heir(driven.plans[move]), "g1"]
    assert driven.steps[move][-1] is Step.SWITCHING
    driven.run(200.0)
    assert driven.steps[move] == ALL
    assert driven.assigned[names[1]] == ["g1"]


# ---- what goes wrong


@pytest.mark.parametrize("answer", ["failed", "refused"])
def test_an_heir_that_does_not_come_is_not_tried_again_and_nothing_has_changed(answer: str) -> None:
    driven, key, names = _pipeline()
    driven.answers.append(answer)
    move = _consolidate(driven)
    driven.run(3.0)
    assert driven.steps[move] == [Step.ORDERED, Step.PREPARING, Step.GIVEN_UP]
    assert "did not come" in _reason(driven, move)
    assert len(driven.starts()) == 2
    assert driven.states() == [State.SERVING]
    assert driven.running(names[0]) == driven.running(driven.ask(key)) == "g1"
    driven.check()


@pytest.mark.parametrize("at", [Step.ORDERED, Step.PREPARING, Step.READY])
def test_a_move_that_nobody_wants_any_more_leaves_the_old_one_as_it_was(at: Step) -> None:
    driven, _, names = _pipeline()
    driven.go_on_s = None
    move = _consolidate(driven)
    if at is not Step.ORDERED:
        driven.tell(events.MoveGoOn(move))
        driven.run(2.0 if at is Step.READY else 0.5)
    assert driven.steps[move][-1] is at
    driven.tell(events.MoveGivenUp(move, "nobody wants it"))
    assert _reason(driven, move) == "nobody wants it"
    driven.run(1.0)
    driven.check()
    assert driven.states() == [State.SERVING]
    assert driven.running(names[0]) == "g1"
    assert not driven.brain._books.memory.by_node() or at is Step.READY


def test_once_it_is_switching_a_move_is_brought_to_its_end() -> None:
    driven, _, names = _pipeline(6)
    move = _consolidate(driven)
    driven.shift_s = 0.5
    driven.run(1.3)
    driven.tell(events.MoveGivenUp(move, "nobody wants it"))
    driven.run(10.0)
    assert driven.steps[move] == ALL
    assert {driven.running(name) for name in names} == {_heir(driven.plans[move])}


@pytest.mark.parametrize("step", [Step.ORDERED, Step.READY])
def test_a_move_that_nobody_carries_out_is_given_up(step: Step) -> None:
    driven, *_ = _pipeline()
    driven.go_on_s = None
    move = _consolidate(driven)
    if step is Step.READY:
        driven.tell(events.MoveGoOn(move))
        driven.run(2.0)
    driven.run(MOVE_PATIENCE_S + 1.0)
    assert driven.steps[move][-2:] == [step, Step.GIVEN_UP]
    assert driven.states() == [State.SERVING]


def test_if_the_old_one_is_lost_its_heir_serves_those_who_were_there() -> None:
    driven, _, names = _pipeline(2)
    move = _consolidate(driven)
    driven.run(0.5)
    driven.lose("g1")
    assert driven.steps[move][-1] is Step.GIVEN_UP
    driven.check()
    driven.run(3.0)
    assert [driven.running(name) for name in names] == [_heir(driven.plans[move])] * 2
    assert len(driven.starts()) == 2


def test_if_the_old_one_is_lost_while_requests_go_over_all_of_them_go_on_at_the_heir() -> None:
    driven, _, names = _pipeline(3)
    move = _consolidate(driven)
    driven.shift_s = 1000.0
    driven.run(2.0)
    driven.lose("g1")
    driven.check()
    driven.run(1.0)
    assert [driven.assigned[name] for name in names] == [["g1", _heir(driven.plans[move])]] * 3
    assert driven.steps[move] == ALL


def test_if_the_heir_is_lost_while_requests_go_over_the_rest_stays_and_is_served() -> None:
    driven, key, names = _pipeline(6)
    move = _consolidate(driven)
    driven.shift_s = 0.3
    driven.run(1.5)
    heir = _heir(driven.plans[move])
    over = [name for name in names if driven.running(name) == heir]
    assert 0 < len(over) < 6
    driven.lose(heir)
    driven.check()
    assert driven.steps[move][-1] is Step.GIVEN_UP
    assert {driven.running(name) for name in names} == {"g1"}
    assert driven.running(driven.ask(key)) == "g1"


def test_a_shift_that_was_told_after_its_heir_was_lost_is_replayed() -> None:
    driven, _, (name,) = _pipeline()
    move = _consolidate(driven)
    driven.shift_s = 1000.0
    driven.run(2.0)
    heir = _heir(driven.plans[move])
    driven.lose(heir)
    driven._on.pop(name)
    driven.tell(events.GroupStopped(heir))
    driven._stopping.discard(heir)
    driven._on[name] = "g1"
    driven.tell(events.RequestShifted(name, "g1", heir))
    assert driven.assigned[name] == ["g1", "g1"]
    driven.check()


def test_an_old_one_that_falls_idle_ends_with_its_heir() -> None:
    driven, _, (name,) = _pipeline(keep_alive_s=5.0)
    driven.go_on_s = None
    move = _consolidate(driven)
    driven.leave(name)
    driven.run(6.0)
    assert driven.steps[move] == [Step.ORDERED, Step.GIVEN_UP]
    assert driven.states() == []


def test_an_heir_is_kept_as_long_as_the_one_before_would_have_been() -> None:
    driven, _, (name,) = _pipeline(keep_alive_s=10.0)
    driven.leave(name)
    driven.run(5.0)
    move = _consolidate(driven)
    driven.run(2.0)
    assert driven.steps[move] == ALL
    assert driven.states() == [State.SERVING]
    driven.run(4.0)
    assert driven.states() == []


def test_an_heir_is_no_replica_more_that_scaling_counts() -> None:
    driven, key, _ = _pipeline(kv_tokens=128, max_replicas=2, free_bytes=3 * SIZE_BYTES)
    driven.go_on_s = None
    driven.tell(events.MoveGoOn(_consolidate(driven)))
    driven.run(0.2)
    driven.ask(key)
    assert [start.behind for start in driven.starts()] == [False, True]
    driven.ask(key)
    assert [start.behind for start in driven.starts()] == [False, True, False]
    driven.ask(key)
    assert len(driven.starts()) == 3


def test_who_needs_the_room_of_an_heir_that_is_prepared_gets_it() -> None:
    driven, _, names = _pipeline()
    move = _consolidate(driven)
    driven.run(0.5)
    waits = driven.ask(driven.know(model_named("other")))
    driven.run(3.0)
    assert "needs the room" in _reason(driven, move)
    assert driven.running(waits) == driven.starts("other")[0].group
    assert driven.running(names[0]) == "g1"
    driven.check()


# ---- wishes


def test_wishes_that_cannot_be_followed_are_refused_in_a_sentence() -> None:
    driven, _, (name,) = _pipeline(free_bytes=SIZE_BYTES // 4)

    def refused(event: events.Event) -> str:
        return _sentence(driven, event)

    assert refused(events.ConsolidationWanted("w", "x")) == "no model called x is known here"
    assert refused(events.ConsolidationWanted("w", "m", "d")) == "no node called d is connected"
    assert refused(events.ConsolidationWanted("w", "m", "c")) == "node c has 0.00 GB free, and m needs 0.00 GB whole"
    assert refused(events.ConsolidationWanted("w", "m")).startswith("no node has more than")
    assert refused(events.MigrationWanted("w", "c")) == "say what is to move: a model, a group, or a request"
    assert refused(events.MigrationWanted("w", "c", group="g7")) == "no group called g7 runs"
    assert refused(events.MigrationWanted("w", "c", model="x")) == "no model called x is known here"
    assert "no request called" in refused(events.MigrationWanted("w", "c", request="r9"))
    assert refused(events.MigrationWanted("w", "a", request=name)) == f"request {name} runs on node a already"
    assert refused(events.MigrationWanted("w", "c", request=name)) == "no replica of m serves on node c"
    assert refused(events.NodeDrained("d", "w")) == "no node called d is connected"
    driven.join(node_named("d"))
    driven.tell(events.NodeDrained("d"))
    assert refused(events.MigrationWanted("w", "d", model="m")) == "node d is drained, and takes nothing new"
    assert refused(events.NodeDrained("d", "w")) == "node d is drained already"


def test_what_is_whole_is_no_pipeline_and_what_moves_is_not_moved_twice() -> None:
    driven, *_ = _pipeline()
    move = _consolidate(driven)
    again = _sentence(driven, events.ConsolidationWanted("w2", "m"))
    assert again == f"group g1 is moving already (move {move})"
    driven.run(3.0)
    assert "does not run as a pipeline" in _sentence(driven, events.ConsolidationWanted("w3", "m"))
    here = _sentence(driven, events.MigrationWanted("w4", "c", model="m"))
    assert here == f"group {_heir(driven.plans[move])} runs on node c already"


def test_a_request_alone_moves_to_a_replica_that_serves_there() -> None:
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.run_s = 100.0
    key = driven.know(model_named("m"), wanting(kv_tokens=64, max_replicas=2))
    first, second = driven.ask(key), driven.ask(key)
    driven.run(2.0)
    groups = {driven.running(first), driven.running(second)}
    assert groups == {"g1", "g2"}
    there = _replica(driven, str(driven.running(second))).nodes[0]
    assert "tokens of KV cache free" in _sentence(driven, events.MigrationWanted("w", there, request=first))
    driven.leave(second)
    driven.tell(events.MigrationWanted("w2", there, request=first))
    driven.run(1.0)
    (move,) = driven.plans
    assert driven.steps[move] == ALL
    assert driven.plans[move].request == first
    assert driven.states() == [State.SERVING, State.SERVING]
    assert _replica(driven, str(driven.running(first))).nodes == (there,)
    driven.check()


def test_a_replica_moves_to_the_node_that_an_operator_names() -> None:
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.run_s = 100.0
    request = driven.ask(driven.know(model_named("m")))
    driven.run(2.0)
    there = ({"a", "b"} - set(_replica(driven, "g1").nodes)).pop()
    driven.tell(events.MigrationWanted("w", there, model="m"))
    driven.run(3.0)
    assert _replica(driven, str(driven.running(request))).nodes == (there,)


# ---- nodes that are left


def test_what_runs_on_a_node_that_is_drained_goes_on_elsewhere() -> None:
    driven = DrivenBrain([node_named("a", 2 * SIZE_BYTES), node_named("b")])
    driven.run_s = 100.0
    keys = [driven.know(model_named(f"m{i}")) for i in range(2)]
    driven.tell(events.NodeDrained("b"))
    names = [driven.ask(key) for key in keys]
    driven.run(2.0)
    driven.tell(events.NodeUndrained("b"))
    driven.tell(events.NodeDrained("a", "w"))
    (move,) = driven.plans
    plan = driven.plans[move]
    assert (plan.kind, plan.node, plan.wish) == (Kind.DRAIN, "a", "w")
    assert sorted(len(handover.heirs) for handover in plan.handovers) == [0, 1], "there is room for one of them"
    driven.run(3.0)
    moved, stays = sorted(names, key=lambda name: driven.assigned[name] == [driven.running(name)])
    assert _replica(driven, str(driven.running(moved))).nodes == ("b",)
    assert _replica(driven, str(driven.running(stays))).state is State.DRAINING
    assert driven.steps[move][-1] is Step.SWITCHING
    driven.leave(stays)
    driven.run(1.0)
    assert driven.steps[move] == ALL
    driven.check()


def test_the_last_node_is_not_drained_and_one_that_drains_itself_is_not_asked() -> None:
    driven = DrivenBrain([node_named("a")])
    driven.ask(driven.know(model_named("m")))
    driven.run_s = 100.0
    driven.run(2.0)
    assert "the last one" in _sentence(driven, events.NodeDrained("a", "w"))
    host = driven.hosts["a"]
    host.node = replace(host.node, draining=True)
    driven.tell(host.reports())
    assert [plan.kind for plan in driven.plans.values()] == [Kind.DRAIN]
    assert driven.states() == [State.DRAINING]


def test_a_node_that_is_not_to_be_left_any_more_keeps_what_has_not_begun_to_go() -> None:
    driven = DrivenBrain([node_named("a"), node_named("b", SIZE_BYTES)])
    driven.run_s = 100.0
    request = driven.ask(driven.know(model_named("m")))
    driven.run(2.0)
    node = _replica(driven, "g1").nodes[0]
    driven.go_on_s = None
    driven.tell(events.NodeDrained(node, "w"))
    (move,) = driven.plans
    assert f"(move {move})" in _sentence(driven, events.NodeDrained(node, "w2"))
    driven.tell(events.MoveGoOn(move))
    driven.run(0.2)
    driven.tell(events.NodeUndrained(node))
    driven.run(3.0)
    assert driven.steps[move][-1] is Step.GIVEN_UP
    assert driven.running(request) == "g1"
    assert driven.states() == [State.SERVING]


def test_a_drain_that_nobody_carries_out_ends_what_runs_there_none_the_less() -> None:
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.run_s = 100.0
    driven.ask(driven.know(model_named("m")))
    driven.run(2.0)
    driven.go_on_s = None
    driven.tell(events.NodeDrained(_replica(driven, "g1").nodes[0], "w"))
    driven.run(MOVE_PATIENCE_S + 1.0)
    assert driven.states() == [State.DRAINING]


def test_a_version_that_was_replaced_stays_itself_wherever_it_goes() -> None:
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.run_s = 100.0
    request = driven.ask(driven.know(model_named("m")))
    driven.run(2.0)
    driven.know(model_named("m", "m/2"), opened=1)
    driven.tell(events.NodeDrained(_replica(driven, "g1").nodes[0], "w"))
    driven.run(3.0)
    replica = _replica(driven, str(driven.running(request)))
    assert (replica.group, replica.service.key.digest) != ("g1", "m/2")
    assert replica.state is State.DRAINING
    driven.leave(request)
    driven.run(1.0)
    assert driven.states() == []


def test_starts_of_heirs_have_the_time_that_they_are_predicted_to_take() -> None:
    driven, *_ = _pipeline()
    _consolidate(driven)
    driven.run(1.0)
    behind = [start for start in driven.actions(Start) if isinstance(start, Start) and start.behind]
    assert [start.timeout_s >= driven.limits.start_timeout_s for start in behind] == [True]
