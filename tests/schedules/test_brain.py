"""Requests and the brain alone: who is served where, who waits, who is turned away, and what becomes of those whose group
is lost."""

from typing import Any

import pytest

from schedules import events
from schedules.actions import Adopt, Assign, Failed, Hold, Record, Replay, Start, Stop, Why
from schedules.lifecycle import State
from schedules.limits import KEEP_UP_AFTER_S, LOST_S, REPLAYS, SILENT_S, START_ATTEMPTS, Limits
from schedules.objectives import Objectives
from schedules.requests import Request
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, Host, model_named, node_named, wanting
from tests.schedules.models import rates_of


def _one(model: str = "m", objectives: Objectives | None = None, **nodes: int) -> tuple[DrivenBrain, tuple[str, str]]:
    """A brain with a node that has room for one replica, or with `nodes`, by bytes; and a model."""
    driven = DrivenBrain([node_named(name, size) for name, size in (nodes or {"a": SIZE_BYTES}).items()])
    return driven, driven.know(model_named(model), objectives)


# ---- cold, warm, and bounds


def test_a_cold_request_waits_for_its_start_and_is_assigned_when_it_is_formed() -> None:
    driven, key = _one()
    request = driven.ask(key)
    assert driven.actions(Hold) == [Hold(request)]
    driven.run(1.0)
    assert driven.actions(Assign) == [Assign(request, "g1", True)]
    driven.run(2.0)
    assert request in driven.ended
    assert [record.ttft_s for record in driven.actions(Record)] == [pytest.approx(1.1)]


def test_a_request_that_is_given_no_token_has_waited_for_a_start_all_the_same() -> None:
    """A vector is wanted of it. What answers have in the mean is what those have that are generated."""
    driven, key = _one(objectives=wanting(kv_tokens=64))
    driven.first_s = driven.run_s = 1e9
    request = driven.ask(key, tokens=(64, 0))
    driven.run(1.5)
    (replica,) = driven.brain.replicas()
    assert replica.used_tokens == 64, "it has the room of its prompt, and no more"
    driven.tell(events.RequestProgressed(request, "g1", 0))
    driven.tell(events.RequestEnded(request))
    assert [record.ttft_s for record in driven.actions(Record)] == [pytest.approx(1.5)]
    assert replica.used_tokens == len(replica.requests) == 0
    assert replica.service.load.mean_tokens is None


def test_who_lost_is_told_with_the_start_and_not_kept_after_it() -> None:
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.ask(driven.know(model_named("m"), wanting(max_degree=2)))
    driven.run(1.5)
    (record,) = driven.actions(Record)
    (replica,) = driven.brain.replicas()
    assert isinstance(record, Record)
    assert len(record.decision.candidates) > 1
    assert replica.cold.decision is not None
    assert replica.cold.decision.candidates == (record.decision.chosen,)
    assert replica.cold.decision.chosen is record.decision.chosen


def test_a_warm_request_is_assigned_at_once_and_never_held() -> None:
    driven, key = _one()
    driven.ask(key)
    driven.run(3.0)
    request = driven.ask(key)
    assert driven.actions(Assign)[-1] == Assign(request, "g1", False)
    assert len(driven.actions(Hold)) == 1


def test_two_requests_make_one_start() -> None:
    driven, key = _one()
    driven.ask(key)
    driven.ask(key)
    driven.run(5.0)
    assert len(driven.starts()) == 1
    assert len(driven.ended) == 2


def test_what_is_too_long_for_any_replica_is_told_so_at_once() -> None:
    driven, key = _one(objectives=wanting(kv_tokens=64))
    request = driven.ask(key, tokens=(60, 5))
    assert driven.why(request) is Why.TOO_LONG
    assert driven.rejected[request].retry_after_s is None
    assert not driven.starts()


def test_of_ten_thousand_the_first_are_served_up_to_the_bound_wait_and_the_rest_are_told_when_to_come_again() -> None:
    driven = DrivenBrain([node_named("a")], limits=Limits(30.0, 10_000, 100, consolidate=True))
    key = driven.know(model_named("m"), wanting(kv_tokens=640))
    driven.ask(key)
    driven.run(3.0)
    requests = [driven.ask(key) for _ in range(10_000)]
    assert [driven.running(name) for name in requests[:10]] == ["g1"] * 10
    assert driven.brain.held == 100 - 1 + 1
    refused = requests[111:]
    assert all(driven.why(name) is Why.OVERLOADED for name in refused)
    driven.check()
    driven.run(30.0)
    assert all(name in driven.ended for name in requests[:111])


def test_the_retry_after_of_who_is_turned_away_follows_from_what_is_queued() -> None:
    """It was one constant, whether ten or a thousand waited."""

    def told_s(bound: int) -> int:
        driven = DrivenBrain([node_named("a")], limits=Limits(30.0, 10_000, bound, consolidate=True))
        key = driven.know(model_named("m"), wanting(kv_tokens=640))
        for _ in range(10):
            driven.ask(key)
        driven.run(3.0)
        for _ in range(11 + bound):
            last = driven.ask(key)
        driven.run(1.5)
        while driven.brain.held < bound:
            last = driven.ask(key)
        last = driven.ask(key)
        told = driven.rejected[last].retry_after_s
        assert told is not None
        return told

    assert 1 <= told_s(20) < told_s(200) <= 60


def test_the_bound_of_all_models_together_holds_too() -> None:
    driven = DrivenBrain([node_named("a")], limits=Limits(30.0, 5, 4, consolidate=True))
    keys = [driven.know(model_named(f"m{i}")) for i in range(3)]
    requests = [driven.ask(key) for _ in range(3) for key in keys]
    assert driven.brain.held == 5
    assert [driven.why(name) for name in requests[5:]] == [Why.OVERLOADED] * 4


def test_who_is_turned_away_by_the_bound_may_still_take_a_replica_that_has_room() -> None:
    """Bounds are of those who wait, and do not touch who need not."""
    driven = DrivenBrain([node_named("a"), node_named("b")], limits=Limits(30.0, 1, 1, consolidate=True))
    warm, cold = driven.know(model_named("warm")), driven.know(model_named("cold"))
    driven.ask(warm)
    driven.run(3.0)
    driven.ask(cold)
    assert driven.brain.held == 1
    assert driven.running(driven.ask(warm)) is not None


def test_without_any_node_a_request_is_turned_away_and_told_why() -> None:
    driven = DrivenBrain()
    key = driven.know(model_named("m"))
    assert driven.why(driven.ask(key)) is Why.UNAVAILABLE
    driven.tell(events.SchedulerLost())
    assert "scheduler does not answer" in driven.rejected[driven.ask(key)].sentence


def test_who_leaves_while_it_waits_is_not_waited_for() -> None:
    driven, key = _one()
    driven.answers.append("failed")
    request = driven.ask(key)
    driven.leave(request)
    driven.run(40.0)
    assert driven.brain.held == 0
    assert len(driven.starts()) == 1, "the start that failed is not tried again for nobody"


def test_nobody_waits_past_the_deadline_that_it_came_with() -> None:
    """It was looked at only when a start's time was over, or when a replica had room."""
    driven, key = _one()
    other = driven.know(model_named("other"))
    driven.run_s = 100.0
    driven.ask(other)
    driven.run(2.0)
    driven.ask(key)
    short = driven.ask(key, deadline_s=driven.now_s + 4.0)
    driven.run(4.5)
    assert driven.why(short) is Why.UNAVAILABLE
    assert driven.brain.held == 1


class _Counted(dict[str, Request]):
    """Requests, and how often one was looked up."""

    looks = 0

    def get(self, *args: Any) -> Any:
        self.looks += 1
        return super().get(*args)


def _served_one_by_one(waiting: int) -> int:
    """How often a request is looked up until all who wait are over, half of whom leave."""
    driven = DrivenBrain([node_named("a")], limits=Limits(1e9, 10**6, 10**6, consolidate=True))
    key = driven.know(model_named("m"), wanting(kv_tokens=64))
    requests = driven.brain._desk.line.requests = _Counted()
    driven.ask(key)
    driven.run(1.01)
    names = [driven.ask(key) for _ in range(waiting)]
    for name in names[: waiting // 2]:
        driven.tell(events.RequestLeft(name))
    for _ in range(waiting):
        runs = next(iter(driven.brain.replicas()[0].requests), None)
        if runs is None:
            break
        driven.tell(events.RequestEnded(runs))
    assert driven.brain.held == 0
    return requests.looks


def test_handing_out_to_thousands_who_wait_takes_a_constant_number_of_steps_each() -> None:
    """Sixty thousand who left one after the other were looked through from the first on each time: hours."""
    few, many = _served_one_by_one(1_000), _served_one_by_one(4_000)
    assert many <= 4.2 * few
    assert few <= 12 * 1_000


# ---- where one ends


def test_a_request_that_meets_a_stopping_replica_starts_another_at_once() -> None:
    """It waited until the old one had stopped."""
    driven, key = _one(objectives=wanting(kv_tokens=1024, keep_alive_s=1.0), a=2 * SIZE_BYTES)
    driven.stop_s = 20.0
    driven.ask(key)
    driven.run(3.5)
    assert driven.states() == [State.STOPPING]
    request = driven.ask(key)
    assert len(driven.starts()) == 2
    driven.run(3.0)
    assert request in driven.ended


def test_a_request_that_meets_a_stopping_replica_takes_another_that_serves() -> None:
    driven, key = _one(objectives=wanting(kv_tokens=64, max_replicas=2), a=SIZE_BYTES, b=SIZE_BYTES)
    driven.stop_s = 20.0
    for _ in range(2):
        driven.ask(key, tokens=(50, 14))
    driven.run(4.0)
    assert driven.states() == [State.SERVING, State.SERVING]
    driven.lose("g1")
    request = driven.ask(key)
    assert driven.running(request) == "g2"
    assert len(driven.starts()) == 2


def test_a_replica_that_nobody_asks_goes_after_its_time_and_not_before() -> None:
    driven, key = _one(objectives=wanting(keep_alive_s=10.0))
    driven.ask(key)
    driven.run(11.9)
    assert driven.states() == [State.SERVING]
    driven.run(0.5)
    assert driven.states() == []
    assert driven.actions(Stop) == [Stop("g1")]


def test_keep_alive_counts_from_the_last_request() -> None:
    driven, key = _one(objectives=wanting(keep_alive_s=10.0))
    driven.ask(key)
    driven.run(10.0)
    driven.ask(key)
    driven.run(10.0)
    assert driven.states() == [State.SERVING]
    driven.run(2.0)
    assert driven.states() == []


# ---- replays


def test_a_lost_group_s_requests_go_on_elsewhere_with_the_tokens_they_have_and_before_all_others() -> None:
    driven, key = _one(objectives=wanting(kv_tokens=128))
    driven.run_s = 5.0
    first, second = driven.ask(key), driven.ask(key)
    driven.run(2.0)
    third, fourth = driven.ask(key), driven.ask(key)
    assert driven.running(fourth) is None
    driven.lose("g1")
    assert driven.actions(Replay) == [
        Replay(first, "g1", 1, "a stage died"),
        Replay(second, "g1", 1, "a stage died"),
        Replay(third, "g1", 0, "a stage died"),
    ]
    assert driven.brain.request(first).tokens == 25  # type: ignore[union-attr]
    driven.check()
    driven.run(1.5)
    assert [driven.running(name) for name in (first, second, third, fourth)] == ["g2", "g2", "g2", None]
    driven.run(20.0)
    assert {first, second, third, fourth} == set(driven.ended)
    assert driven.got_tokens == dict.fromkeys((first, second, third, fourth), 8)


@pytest.mark.parametrize(("tokens", "why"), [(True, Why.INTERRUPTED), (False, Why.UNAVAILABLE)])
def test_a_request_goes_on_elsewhere_so_often_and_no_oftener(tokens: bool, why: Why) -> None:
    driven, key = _one()
    driven.run_s, driven.first_s = 100.0, 0.1 if tokens else 50.0
    request = driven.ask(key)
    for _ in range(REPLAYS + 1):
        driven.run(2.0)
        group = driven.running(request)
        assert group is not None
        driven.lose(group)
        driven.check()
    assert driven.why(request) is why
    assert len(driven.actions(Replay)) == REPLAYS


def test_a_stream_that_breaks_is_its_group_s_end() -> None:
    driven, key = _one()
    driven.run_s = 5.0
    request = driven.ask(key)
    driven.run(1.5)
    driven.tell(events.RequestBroke(request, "g1", "connection reset"))
    driven.tell(events.GroupLost("g1", "a stage died"))
    assert driven.actions(Stop) == [Stop("g1")]
    driven.run(10.0)
    assert driven.assigned[request] == ["g1", "g2"]
    assert request in driven.ended


def test_what_a_group_says_of_a_request_that_went_on_elsewhere_counts_for_nothing() -> None:
    driven, key = _one()
    driven.run_s = 5.0
    request = driven.ask(key)
    driven.run(1.5)
    driven.lose("g1")
    driven.tell(events.RequestProgressed(request, "g1", 5))
    driven.tell(events.RequestBroke(request, "g1", "late"))
    driven.tell(events.RequestRefused(request, "g1", "late"))
    assert driven.brain.request(request).generated == 1  # type: ignore[union-attr]
    driven.run(10.0)
    assert request in driven.ended


def test_a_request_that_its_replica_refuses_is_over_and_leaves_its_room() -> None:
    driven, key = _one(objectives=wanting(kv_tokens=64))
    driven.run_s = 5.0
    refused, waits = driven.ask(key), driven.ask(key)
    driven.run(1.01)
    extra = driven.ask(key)
    driven.tell(events.RequestRefused(refused, "g1", "no room in the KV cache"))
    assert driven.why(refused) is Why.UNAVAILABLE
    assert driven.running(waits) == "g1"
    driven.check()
    del extra


def test_a_replayed_request_s_first_token_frees_the_links_of_its_new_group() -> None:
    """Only a request without tokens was taken for a first one, so that nobody else was let onto the links; and a start that
    was for a request of long ago would have been recorded with all of its past as its time to first token."""
    driven = DrivenBrain([node_named("a", rates=rates_of(nic=0.1))], policy="planned")
    key = driven.know(model_named("m"))
    driven.run_s = 10.0
    driven.ask(key)
    driven.run(2.0)
    driven.lose("g1")
    assert [record.group for record in driven.actions(Record)] == ["g1"]
    driven.run(0.5)
    assert [t.name for t in driven.brain._books._links.transfers] != []
    driven.run(1.5)
    assert driven.got_tokens.total() == 2
    assert all(t.priority for t in driven.brain._books._links.transfers)
    assert [record.group for record in driven.actions(Record)] == ["g1"]


# ---- starts that fail


def test_a_start_that_fails_is_tried_again_so_often_and_then_who_waits_is_told_why() -> None:
    driven, key = _one()
    driven.answers.extend(["failed"] * START_ATTEMPTS)
    request = driven.ask(key)
    driven.run(5.0)
    assert driven.why(request) is Why.UNAVAILABLE
    assert "it failed" in driven.rejected[request].sentence
    assert len(driven.starts()) == START_ATTEMPTS
    assert [failed.reason for failed in driven.actions(Failed)] == ["it failed"]


def test_a_start_that_fails_once_is_tried_again_under_another_name() -> None:
    driven, key = _one()
    driven.answers.append("failed")
    request = driven.ask(key)
    driven.run(5.0)
    assert [start.group for start in driven.starts()] == ["g1", "g2"]
    assert request in driven.ended


def test_a_group_that_is_lost_while_it_starts_is_started_again() -> None:
    driven, key = _one()
    request = driven.ask(key)
    driven.run(0.5)
    driven.lose("g1")
    driven.run(5.0)
    assert driven.actions(Stop) == [Stop("g1")]
    assert request in driven.ended


def test_a_group_that_is_lost_thrice_while_it_starts_is_not_started_a_fourth_time() -> None:
    driven, key = _one(a=10 * SIZE_BYTES)
    request = driven.ask(key)
    for start in range(START_ATTEMPTS):
        assert len(driven.starts()) == start + 1
        driven.lose(driven.starts()[-1].group)
    assert driven.why(request) is Why.UNAVAILABLE
    driven.check()


def test_a_group_that_is_lost_again_and_again_while_it_starts_is_given_up_although_another_serves() -> None:
    """Only where no other replica served was it ever given up."""
    driven, key = _one(objectives=wanting(kv_tokens=64, max_replicas=2), a=10 * SIZE_BYTES)
    driven.run_s = 20.0
    requests = [driven.ask(key) for _ in range(3)]
    for _ in range(20):
        driven.run(1.5 if len(driven.starts()) == 1 else 0.2)
        for replica in driven.brain.replicas():
            if replica.state is State.STARTING and replica.group != "g1":
                driven.lose(replica.group)
    assert len(driven.starts()) <= 1 + START_ATTEMPTS
    assert len(driven.actions(Failed)) == 1
    driven.run(60.0)
    assert set(requests) == set(driven.ended)


def test_a_start_that_a_node_refuses_is_decided_again_once_the_node_has_said_what_is_there() -> None:
    """It was decided again at once, by the same report: refused thrice within milliseconds, who waited was turned away."""
    driven, key = _one()
    driven.answers.extend(["refused"] * (START_ATTEMPTS + 1))
    driven.reserve_s = 0.001
    request = driven.ask(key)
    driven.run(10.0)
    assert request in driven.ended
    assert len({start.group for start in driven.starts()}) == START_ATTEMPTS + 2
    driven.check()


def test_a_node_that_refuses_for_ever_ends_with_the_patience_of_who_waits() -> None:
    driven, key = _one()
    driven.answers.extend(["refused"] * 10_000)
    request = driven.ask(key)
    driven.run(40.0)
    assert driven.why(request) is Why.UNAVAILABLE
    assert driven.states() == []
    assert len(driven.starts()) < 500


# ---- nodes


def test_a_node_that_is_silent_gets_nothing_new_and_is_used_again_once_it_is_heard() -> None:
    driven, _ = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.hosts["a"].heard = False
    driven.run(SILENT_S + 1.0)
    keys = [driven.know(model_named(f"m{i}")) for i in range(2)]
    first, second = (driven.ask(key) for key in keys)
    driven.run_s = 30.0
    driven.run(2.0)
    assert [start.placement.stages[0].node for start in driven.starts()] == ["b"]
    driven.hosts["a"].heard = True
    driven.run(3.0)
    assert [start.placement.stages[0].node for start in driven.starts()] == ["b", "a"]
    assert driven.running(first) is not None
    assert driven.running(second) is not None


def test_a_silence_that_ended_does_not_count_for_the_next() -> None:
    """Silent for a while, heard, and silent again: what runs there is lost LOST_S after it was heard last."""
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 60.0
    driven.ask(key)
    driven.run(1.5)
    there = driven.hosts[driven.starts()[0].placement.stages[0].node]
    there.heard = False
    driven.run(SILENT_S + 3.0)
    there.heard = True
    driven.run(1.5)
    there.heard = False
    driven.run(LOST_S - 1.5)
    assert not driven.actions(Replay)
    driven.run(2.5)
    assert len(driven.actions(Replay)) == 1


def test_what_runs_on_a_node_is_lost_with_its_silence_and_goes_on_elsewhere() -> None:
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 30.0
    request = driven.ask(key)
    driven.run(1.5)
    there = driven.starts()[0].placement.stages[0].node
    driven.hosts[there].heard = False
    driven.run(LOST_S - 1.0)
    assert not driven.actions(Replay)
    driven.run(2.1)
    assert [replay.request for replay in driven.actions(Replay)] == [request]
    driven.run(1.5)
    assert driven.running(request) == "g2"
    driven.hosts[there].heard = True
    driven.run(60.0)
    assert request in driven.ended
    driven.check()


def test_a_node_that_falls_silent_while_no_scheduler_answers_is_lost_as_ever() -> None:
    """Nodes are heard straight, whether a scheduler is there or not. Who waits, and the other nodes, are none the worse."""
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 60.0
    request = driven.ask(key)
    driven.run(1.5)
    there = driven.starts("m")[0].placement.stages[0].node
    driven.tell(events.SchedulerLost())
    driven.run(20.0)
    assert not driven.actions(Replay)
    driven.hosts[there].heard = False
    driven.run(LOST_S + 1.5)
    assert [replay.request for replay in driven.actions(Replay)] == [request]
    driven.tell(events.SchedulerJoined())
    driven.run(60.0)
    assert request in driven.ended


def test_a_node_that_leaves_takes_its_groups_and_none_else() -> None:
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    other = driven.know(model_named("other"))
    driven.run_s = 10.0
    ours, theirs = driven.ask(key), driven.ask(other)
    driven.run(1.5)
    driven.leave_node(driven.starts("m")[0].placement.stages[0].node)
    assert [replay.request for replay in driven.actions(Replay)] == [ours]
    assert driven.running(theirs) == "g2"
    driven.run(60.0)
    assert theirs in driven.ended
    assert ours in driven.ended
    driven.check()


def test_who_had_begun_waits_for_a_node_to_come_back_and_who_had_not_is_told_at_once() -> None:
    driven, key = _one()
    driven.run_s = 10.0
    request = driven.ask(key)
    driven.run(1.5)
    driven.leave_node("a")
    assert driven.actions(Replay)
    fresh = driven.ask(key)
    driven.run(5.0)
    driven.join(node_named("a"))
    driven.run(20.0)
    assert request in driven.ended
    assert fresh in driven.ended or driven.why(fresh) is Why.UNAVAILABLE


def test_who_had_begun_is_told_that_it_is_cut_off_if_no_node_comes() -> None:
    driven, key = _one()
    driven.run_s = 10.0
    request = driven.ask(key)
    driven.run(1.5)
    driven.leave_node("a")
    driven.run(20.0)
    assert driven.why(request) is Why.INTERRUPTED
    assert not [state for state in driven.states() if state is not State.STOPPING]


def test_a_node_that_drains_ends_what_has_nowhere_to_go_and_gets_nothing_new() -> None:
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 8.0
    request = driven.ask(key)
    driven.run(1.5)
    driven.ask(driven.know(model_named("other")))
    driven.run(1.5)
    there = driven.starts("m")[0].placement.stages[0].node
    driven.tell(events.NodeDrained(there))
    second = driven.ask(key)
    driven.run(30.0)
    first, again = driven.starts("m")
    assert (driven.assigned[request], driven.assigned[second]) == ([first.group], [again.group])
    assert {start.placement.stages[0].node for start in driven.starts("m")} == {"a", "b"}
    assert driven.actions(Stop)[0] == Stop("g1")


def test_who_waits_for_a_replica_whose_node_drains_gets_another() -> None:
    """Nobody wanted one for them: they waited until the next request came, or were told that a start takes too long."""
    driven, key = _one(objectives=wanting(kv_tokens=64), a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 20.0
    driven.ask(key)
    driven.run(1.5)
    driven.ask(key)
    waits = driven.ask(key)
    driven.tell(events.NodeDrained(driven.starts()[0].placement.stages[0].node))
    driven.run(1.0)
    assert len(driven.starts()) == 2
    driven.run(30.0)
    assert driven.running(waits) == "g2" or waits in driven.ended


def test_a_start_on_a_node_that_drains_meanwhile_serves_who_waits_for_it_or_another_does() -> None:
    """It was ended as soon as it was formed, and whoever waited for it waited on for nothing."""
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    request = driven.ask(key)
    driven.run(0.5)
    driven.tell(events.NodeDrained(driven.starts()[0].placement.stages[0].node))
    driven.run(5.0)
    assert request in driven.ended
    driven.run(5.0)
    assert State.DRAINING not in driven.states()


def test_what_waits_for_room_on_a_node_that_drains_is_decided_again() -> None:
    driven, key = _one()
    other = driven.know(model_named("other"))
    driven.stop_s = 5.0
    driven.ask(other)
    driven.run(3.0)
    request = driven.ask(key)
    assert driven.states("other") == [State.STOPPING]
    driven.tell(events.NodeDrained("a"))
    driven.run(6.0)
    assert not driven.starts("m")
    driven.join(node_named("b"))
    driven.run(5.0)
    assert request in driven.ended or driven.why(request) is Why.UNAVAILABLE


# ---- announcements


def test_an_announced_request_finds_its_start_under_way() -> None:
    driven, key = _one()
    driven.tell(events.RequestAnnounced("soon", key, 20, driven.now_s))
    assert len(driven.starts()) == 1
    driven.run(0.3)
    driven.tell(events.AnnouncementOver("soon"))
    driven.tell(events.RequestArrived("r", key, 20, 8, 0.0))
    driven.alive.add("r")
    driven.run(5.0)
    (record,) = driven.actions(Record)
    assert isinstance(record, Record)
    assert (record.arrived_s, record.text_s) == (0.0, pytest.approx(0.3))
    assert len(driven.starts()) == 1


def test_a_start_that_is_over_before_its_request_is_read_is_recorded_too() -> None:
    """A tokenizer took longer than the replica: the start was in no ledger, and nothing was learned of it."""
    driven, key = _one()
    driven.tell(events.RequestAnnounced("soon", key, 20, driven.now_s))
    driven.run(3.0)
    assert driven.states() == [State.SERVING]
    driven.tell(events.AnnouncementOver("soon"))
    driven.alive.add("r")
    driven.tell(events.RequestArrived("r", key, 20, 8, 0.0))
    driven.run(5.0)
    (record,) = driven.actions(Record)
    assert isinstance(record, Record)
    assert (record.arrived_s, record.text_s) == (0.0, pytest.approx(3.0))


def test_an_announcement_that_was_wrong_leaves_nothing_behind() -> None:
    driven, key = _one()
    busy = driven.know(model_named("busy"))
    driven.run_s = 100.0
    driven.ask(busy)
    driven.run(2.0)
    driven.tell(events.RequestAnnounced("soon", key, 20, driven.now_s))
    assert driven.states("m") == [State.WANTED]
    driven.tell(events.AnnouncementOver("soon"))
    driven.run(1.1)
    assert driven.states("m") == []
    driven.check()


def test_what_is_announced_keeps_an_idle_replica() -> None:
    driven, key = _one(objectives=wanting(keep_alive_s=3.0))
    driven.ask(key)
    driven.run(4.0)
    driven.tell(events.RequestAnnounced("soon", key, 20, driven.now_s))
    driven.run(10.0)
    assert driven.states() == [State.SERVING]
    driven.tell(events.AnnouncementOver("soon"))
    driven.run(5.0)
    assert driven.states() == []


# ---- versions


def test_a_newer_version_retires_the_older_and_old_requests_end_on_old_weights() -> None:
    driven, old = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 5.0
    before = driven.ask(old)
    driven.run(1.5)
    new = driven.know(model_named("m", "m/2"), opened=1)
    after = driven.ask(new)
    driven.run(10.0)
    assert (driven.assigned[before], driven.assigned[after]) == (["g1"], ["g2"])
    assert [start.key for start in driven.starts()] == [old, new]
    assert not driven.brain.knows(old)
    assert driven.brain.knows(new)


def test_a_request_of_an_older_version_goes_on_on_old_weights() -> None:
    """The group that was started for it was ended as soon as it was formed, since its version was retired: cut off."""
    driven, old = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    driven.run_s = 5.0
    before = driven.ask(old)
    driven.run(1.5)
    driven.know(model_named("m", "m/2"), opened=1)
    driven.lose("g1")
    driven.run(10.0)
    assert driven.assigned[before] == ["g1", "g2"]
    assert before in driven.ended
    assert [start.key for start in driven.starts()] == [old, old]
    assert driven.states() == []
    assert not driven.brain.knows(old)


def test_those_who_wait_for_an_older_version_are_still_served_by_it() -> None:
    """Its replicas were given nothing more once there was a newer one, those who waited for them too."""
    driven, old = _one(objectives=wanting(kv_tokens=64))
    driven.run_s = 2.0
    requests = [driven.ask(old) for _ in range(4)]
    driven.run(1.5)
    driven.know(model_named("m", "m/2"), opened=1)
    driven.run(20.0)
    assert all(name in driven.ended for name in requests)
    assert driven.states() == []
    assert not driven.brain.knows(old)


def test_a_start_of_an_older_version_that_nobody_waits_for_ends_once_on_a_node_that_drains() -> None:
    """It was ended for being old, and then drained for its node's sake: no legal turn."""
    kept = wanting(min_replicas=1)
    driven, _ = _one(objectives=kept)
    driven.know(model_named("m", "m/2"), kept, opened=1)
    driven.tell(events.NodeDrained("a"))
    driven.run(5.0)
    assert driven.actions(Stop) == [Stop("g1")]
    driven.check()


def test_an_older_version_that_is_known_late_is_not_kept_up() -> None:
    """It was taken for one to be kept, beside the newer."""
    driven = DrivenBrain([node_named("a"), node_named("b")])
    kept = wanting(min_replicas=1, kv_tokens=64)
    driven.know(model_named("m", "m/2"), kept, opened=2)
    old = driven.know(model_named("m", "m/1"), kept, opened=1)
    driven.run(5.0)
    assert [start.key.digest for start in driven.starts()] == ["m/2"]
    request = driven.ask(old)
    driven.run(10.0)
    assert request in driven.ended
    driven.run(10.0)
    assert not driven.brain.knows(old)
    assert driven.states() == [State.SERVING]


def test_an_older_version_that_is_asked_for_again_outlives_what_was_to_be_looked_at_before() -> None:
    """Whoever had been held by it was to be looked at 30 s later. By then it had ended and been forgotten, and was there
    again: that look forgot it under its requests, the end of which found no model."""
    driven, _ = _one(a=3 * SIZE_BYTES)
    old = driven.know(model_named("n", "n/1"), opened=1)
    driven.ask(old)
    driven.run(3.0)
    driven.know(model_named("n", "n/2"), opened=2)
    driven.run(1.0)
    assert not driven.brain.knows(old)
    assert driven.know(model_named("n", "n/1"), opened=1) == old
    driven.run_s = 60.0
    request = driven.ask(old)
    driven.run(driven.limits.start_timeout_s)
    assert driven.brain.knows(old)
    driven.check()
    driven.run(60.0)
    assert request in driven.ended
    assert not driven.brain.knows(old)


def test_a_version_that_is_opened_again_is_the_newest_again() -> None:
    driven, first = _one(objectives=wanting(min_replicas=1, kv_tokens=64))
    driven.run(2.0)
    driven.know(model_named("m", "m/2"), wanting(min_replicas=1, kv_tokens=64), opened=1)
    driven.run(10.0)
    driven.know(model_named("m"), wanting(min_replicas=1, kv_tokens=64), opened=2)
    driven.run(10.0)
    assert [start.key.digest for start in driven.starts()] == ["m/1", "m/2", "m/1"]
    assert driven.brain.knows(first)
    assert driven.states() == [State.SERVING]


# ---- kept up


def test_a_model_that_shall_always_be_there_is_started_before_anybody_asks_and_never_reaped() -> None:
    driven, _ = _one(objectives=wanting(min_replicas=1, keep_alive_s=1.0))
    driven.run(60.0)
    assert driven.states() == [State.SERVING]
    assert len(driven.starts()) == 1


def test_one_that_could_never_start_is_tried_again_every_few_seconds_and_no_oftener() -> None:
    """Each try that came to nothing asked for two more: after two minutes sixteen million at once."""
    driven, _ = _one(objectives=wanting(min_replicas=1, kv_tokens=64), a=SIZE_BYTES - 1)
    driven.run(30.0)
    assert len(driven.actions(Failed)) <= 2 + 30.0 / KEEP_UP_AFTER_S
    driven.join(node_named("b"))
    driven.run(10.0)
    assert driven.states() == [State.SERVING]


def test_a_start_that_nobody_waits_for_and_fails_at_once_is_not_tried_in_a_loop() -> None:
    """Its tries were not counted: as fast as a start can fail, one after the other."""
    driven, _ = _one(objectives=wanting(min_replicas=1, kv_tokens=64))
    driven.reserve_s = 0.001
    driven = DrivenBrain([node_named("a")])
    driven.reserve_s = 0.001
    driven.answers.extend(["failed"] * 10_000)
    driven.know(model_named("m"), wanting(min_replicas=1, kv_tokens=64))
    driven.run(20.0)
    assert len(driven.starts()) <= START_ATTEMPTS * (1 + 20.0 / KEEP_UP_AFTER_S)


def test_the_second_of_two_that_shall_be_there_is_tried_again_although_the_first_serves() -> None:
    """As long as another one served nobody tried it again."""
    driven = DrivenBrain([node_named("a"), node_named("b")])
    driven.answers.extend(["formed"] + ["failed"] * START_ATTEMPTS)
    driven.know(model_named("m"), wanting(min_replicas=2, max_replicas=2, kv_tokens=64))
    driven.run(KEEP_UP_AFTER_S + 5.0)
    assert driven.states() == [State.SERVING, State.SERVING]


# ---- groups of others


def test_a_group_that_is_found_is_adopted_and_serves() -> None:
    driven, key = _one()
    placement = _placement_of(driven)
    driven.groups["other1"] = Start("other1", key, placement, 30.0)
    driven.tell(events.GroupFound("other1", key, placement))
    request = driven.ask(key)
    driven.run(0.5)
    assert driven.actions(Adopt) == [Adopt("other1")]
    assert driven.running(request) == "other1"
    assert not driven.starts()


def _placement_of(driven: DrivenBrain):  # type: ignore[no-untyped-def]
    helper = DrivenBrain([node_named("a")])
    helper.ask(helper.know(model_named("m")))
    return helper.starts()[0].placement


def test_a_group_that_is_found_before_its_model_is_known_is_adopted_with_it() -> None:
    driven = DrivenBrain([node_named("a")])
    model = model_named("m")
    placement = _placement_of(driven)
    driven.groups["other1"] = Start("other1", model.key, placement, 30.0)
    driven.tell(events.GroupFound("other1", model.key, placement))
    assert not driven.actions(Adopt)
    driven.know(model, wanting(min_replicas=1))
    assert driven.actions(Adopt) == [Adopt("other1")]
    driven.tell(events.GroupFound("other1", model.key, placement))
    assert len(driven.actions(Adopt)) == 1
    driven.run(1.0)
    assert driven.states() == [State.SERVING]
    assert not driven.starts(), "it is the one that shall be there"


def test_a_group_that_cannot_be_adopted_is_replaced_for_who_waits() -> None:
    driven, key = _one(a=2 * SIZE_BYTES)
    placement = _placement_of(driven)
    driven.groups["other1"] = Start("other1", key, placement, 30.0)
    driven.tell(events.GroupFound("other1", key, placement))
    request = driven.ask(key)
    driven.tell(events.GroupFailed("other1", "it is gone", False))
    assert len(driven.starts()) == 1
    driven._stopping.add("other1")
    driven.run(5.0)
    assert request in driven.ended


def test_a_front_end_that_has_just_come_waits_a_moment_for_groups_that_may_be_found() -> None:
    """It ended what it might have adopted, or started a second one beside it."""
    driven = DrivenBrain()
    placement = _placement_of(driven)
    key = driven.know(model_named("m"))
    driven.tell(events.SchedulerJoined())
    driven.hosts["a"] = host = Host(node_named("a", 2 * SIZE_BYTES), {"other1": SIZE_BYTES})
    driven.tell(host.reports())
    driven.groups["other1"] = Start("other1", key, placement, 30.0)
    first = driven.ask(key)
    driven.run(0.3)
    assert not driven.starts()
    driven.tell(events.GroupFound("other1", key, placement))
    driven.run(3.0)
    assert driven.assigned[first] == ["other1"]
    assert not driven.starts()
    driven.check()


def test_a_front_end_that_has_just_come_waits_for_no_group_where_nothing_runs() -> None:
    driven = DrivenBrain()
    key = driven.know(model_named("m"))
    driven.tell(events.SchedulerJoined())
    driven.join(node_named("a"))
    driven.ask(key)
    assert len(driven.starts()) == 1


def test_a_request_is_taken_with_all_its_choices_or_not_at_all() -> None:
    """The second choice met a bound that the first had reached: what asked for two answers got 429 from an idle front end."""
    driven = DrivenBrain([node_named("a")], limits=Limits(30.0, 1, 1, consolidate=True))
    key = driven.know(model_named("m"))
    first, second = (driven.ask(key, more=more) for more in (False, True))
    assert not driven.rejected
    assert driven.ask(key) in driven.rejected
    driven.run(10.0)
    assert {first, second} <= set(driven.ended)


def test_a_start_goes_nowhere_near_a_node_that_has_just_not_answered() -> None:
    """A node died, and until it was known to be gone every start was tried there again: thrice within milliseconds, and a
    stream that another node could have gone on with was broken off."""
    driven, key = _one(a=SIZE_BYTES, b=SIZE_BYTES)
    request = driven.ask(key)
    (start,) = driven.starts("m")
    there = start.placement.stages[0].node
    driven.hosts[there].heard = False
    driven.tell(events.GroupFailed(start.group, f"node {there} is gone", False, there))
    (_, again) = driven.starts("m")
    assert again.placement.stages[0].node != there
    driven.run(5.0)
    assert request in driven.ended


def test_who_asks_while_the_only_node_is_silent_waits_for_it_to_be_heard() -> None:
    """It was turned away at once, with the sentence of a cluster without nodes, while the node was held up for seconds."""
    driven, key = _one()
    driven.hosts["a"].heard = False
    driven.run(SILENT_S + 1.5)
    request = driven.ask(key)
    driven.run(2.0)
    assert not driven.rejected
    assert not driven.starts()
    driven.hosts["a"].heard = True
    driven.run(5.0)
    assert request in driven.ended


def test_who_never_comes_to_a_first_token_is_told_so_after_the_time_of_one_start() -> None:
    """With a store that was down for good each of four groups was formed, and lost for want of units: whoever waited was
    turned away after four times as long as a start may take."""
    driven, key = _one()
    driven.first_s = driven.run_s = 1000.0
    request, lost_at_s = driven.ask(key), 0.0
    while request not in driven.rejected:
        driven.run(20.0)
        lost_at_s = driven.now_s
        driven.lose(driven.assigned[request][-1])
    assert lost_at_s <= 2 * driven.limits.start_timeout_s
    assert driven.rejected[request].why is Why.UNAVAILABLE
    assert len(driven.assigned[request]) == 2


def test_a_kept_replica_that_dies_as_soon_as_it_is_formed_is_not_started_again_at_once() -> None:
    """It was started again and again, without a pause."""
    driven = DrivenBrain([node_named("a")])
    driven.know(model_named("m"), wanting(min_replicas=1))
    driven.run(1.5)
    driven.lose("g1")
    driven.run(KEEP_UP_AFTER_S - 1.0)
    assert len(driven.starts()) == 1
    driven.run(3.0)
    assert len(driven.starts()) == 2
