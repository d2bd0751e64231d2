"""A model that is asked for vectors alone: its pipeline becomes one replica, more replicas come if it is busy, and what was
asked for in answers counts apart."""

import pytest

from schedules import events
from schedules.actions import MoveAt
from schedules.facts import ModelKey
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.limits import EMBEDDING_S
from schedules.load import KEPT, WINDOW_S, Load
from schedules.moving.consolidating import SELDOM_S
from schedules.moving.plan import Kind, Step
from schedules.scaling import CLEARED_WITHIN_S, busy_replicas
from schedules.service import Replica
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting
from tests.schedules.models import rates_of
from tests.schedules.test_consolidation import SPEEDS
from tests.told import objectives_of

PREFILL = 10_000.0
PROMPT = 100
OWN_S = PROMPT * SIZE_BYTES / PREFILL
"""What the stages take for a prompt's vector together."""
LATE_S = 0.1


def _driven(late_s: float = LATE_S, **wish: float) -> tuple[DrivenBrain, ModelKey]:
    """A pipeline over a and b, which have no room for more and have made a vector, cold. Nothing is known of hops."""
    rates = rates_of(nic=100.0, ssd=200.0, decode=1e4, prefill=PREFILL, formed=0.5)
    nodes = [node_named(name, SIZE_BYTES // 2, rates) for name in "ab"]
    driven = DrivenBrain(nodes)
    driven.run_s = OWN_S + late_s
    key = driven.know(model_named("m"), wanting(**{"max_degree": 2, "keep_alive_s": 60.0, **wish}))
    _embed(driven, key)
    driven.run(3.0)
    (replica,) = driven.brain.replicas()
    assert (len(replica.nodes), replica.cold.over) == (2, True)
    return driven, key


def _embed(driven: DrivenBrain, key: ModelKey, inputs: int = 1) -> list[str]:
    return [driven.ask(key, tokens=(PROMPT, 0), more=index > 0) for index in range(inputs)]


def _room_at(driven: DrivenBrain, *names: str) -> None:
    rates = rates_of(nic=100.0, ssd=200.0, decode=1e4, prefill=PREFILL, formed=0.5)
    for name in names:
        driven.join(node_named(name, SIZE_BYTES, rates))


def _replica(driven: DrivenBrain) -> Replica:
    (replica,) = driven.brain.replicas()
    return replica


# ---- whether its pipeline becomes one replica


def test_a_pipeline_that_is_asked_for_vectors_alone_becomes_one_replica_between_two_of_them() -> None:
    """It stayed what it was for ever: what is later for coming out of it was counted in tokens of answers."""
    driven, key = _driven()
    for _ in range(5):
        _embed(driven, key)
        driven.run(1.0)
    _room_at(driven, "c")
    driven.run(SELDOM_S + 2.0)
    (plan,) = driven.plans.values()
    assert (plan.kind, driven.steps[plan.move][-1]) == (Kind.CONSOLIDATE, Step.DONE)
    assert f"gives each vector {LATE_S * 1e3:.1f} ms later" in plan.reason
    assert _replica(driven).nodes == ("c",)
    (last,) = _embed(driven, key)
    driven.run(1.0)
    assert last in driven.ended


def test_one_that_is_on_its_way_ends_where_it_is() -> None:
    driven, key = _driven()
    for _ in range(5):
        _embed(driven, key)
        driven.run(1.0)
    driven.run_s = 20.0
    (slow,) = _embed(driven, key)
    driven.staying = [slow] * 20
    _room_at(driven, "c")
    driven.run(SELDOM_S + 2.0)
    (plan,) = driven.plans.values()
    assert driven.steps[plan.move][-1] is Step.SWITCHING
    driven.run_s = 1.0
    (after,) = _embed(driven, key)
    assert driven.running(slow) != driven.running(after)
    driven.run(12.0)
    assert {slow, after} <= driven.ended.keys()
    assert driven.assigned[slow] == ["g1"], "it was computed once"
    assert driven.steps[plan.move][-1] is Step.DONE
    driven.check()


def test_nobody_is_moved_for_vectors_that_come_no_later_or_that_nobody_is_expected_to_ask_for() -> None:
    driven, key = _driven(late_s=0.0)
    for _ in range(5):
        _embed(driven, key)
        driven.run(1.0)
    _room_at(driven, "c")
    driven.run(SELDOM_S + 2.0)
    assert not driven.actions(MoveAt)
    driven, key = _driven()
    _embed(driven, key)
    driven.run(WINDOW_S + 1.0)
    _room_at(driven, "c")
    driven.run(SELDOM_S + 2.0)
    assert not driven.actions(MoveAt)


# ---- by how much they are later


def test_how_late_a_vector_is_is_seen_of_those_that_had_the_replica_for_themselves() -> None:
    driven, key = _driven()
    assert _replica(driven).late_s is None, "the cold one waited for bytes"
    _embed(driven, key)
    driven.run(2.0)
    assert _replica(driven).late_s == pytest.approx(LATE_S)
    driven.run_s = 50.0
    driven.ask(key)
    driven.run_s = 10.0
    _embed(driven, key)
    driven.run(60.0)
    driven.leave(_embed(driven, key, inputs=2)[0])
    driven.run(20.0)
    refused, _ = _embed(driven, key, inputs=2)
    driven.tell(events.RequestRefused(refused, "g1", "it may not"))
    driven.run(20.0)
    assert _replica(driven).late_s == pytest.approx(LATE_S), (
        "beside an answer, or where one was not made, nothing is seen"
    )


def test_of_several_at_once_each_is_later_by_its_share() -> None:
    driven, key = _driven()
    driven.run_s = 4 * OWN_S + LATE_S
    _embed(driven, key, inputs=4)
    driven.run(4.0)
    assert _replica(driven).late_s == pytest.approx(LATE_S / 4)


def test_one_that_makes_vectors_all_the_time_is_looked_at_for_a_while() -> None:
    driven, key = _driven(late_s=0.0)
    driven.run_s = 2 * (OWN_S + LATE_S)
    for _ in range(int((EMBEDDING_S + 3.0) / (OWN_S + LATE_S))):  # two at any time
        _embed(driven, key)
        driven.run(OWN_S + LATE_S)
    replica = _replica(driven)
    assert replica.requests
    assert replica.late_s == pytest.approx(LATE_S, abs=0.1)
    assert replica.embedding is not None
    assert replica.embedding.since_s > EMBEDDING_S


def test_of_a_replica_of_one_stage_or_where_no_speeds_are_known_nothing_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driven, key = _driven()
    monkeypatch.setattr(Books, "speeds", lambda _books, _node: None)
    _embed(driven, key)
    driven.run(2.0)
    assert _replica(driven).late_s is None
    monkeypatch.undo()
    driven.tell(events.ConsolidationWanted("w", "m"))
    _room_at(driven, "c")
    driven.tell(events.ConsolidationWanted("w2", "m"))
    driven.run(3.0)
    _embed(driven, key)
    driven.run(2.0)
    assert (_replica(driven).nodes, _replica(driven).late_s) == (("c",), None)


# ---- how many replicas


def test_inputs_that_come_together_are_counted_all_and_as_one_arrival() -> None:
    """Of a request of 64 inputs it was thought that as many would come every millisecond."""
    load = Load()
    load.arrived(1.0)
    for _ in range(KEPT - 1):
        load.arrived(1.0, more=True)
    assert load.per_s(1.0) == pytest.approx(KEPT / WINDOW_S)
    for index in range(KEPT):
        load.arrived(2.0 + index / 100)
    assert load.per_s(2.64) == pytest.approx(100, rel=0.05), "those before are forgotten with the one they came with"
    assert load.per_s(100.0) == 0.0


def test_prompts_whose_vectors_are_wanted_keep_replicas_busy_as_long_as_they_are_computed() -> None:
    goal, size_bytes = objectives_of(max_replicas=9, kv_tokens=640), 100
    tokens_per_s = SPEEDS.prefill_bytes_per_s / size_bytes

    def busy(embedded_per_s: float, backlog: float = 0.0, answers_per_s: float = 0.0) -> int:
        return busy_replicas(goal, size_bytes, SPEEDS, answers_per_s, 0.0, 10.0, 64, embedded_per_s, backlog)

    assert busy(0.0) == 0
    assert busy(0.9 * tokens_per_s) == 1
    assert busy(2.5 * tokens_per_s) == 3
    assert busy(0.0, backlog=2.5 * tokens_per_s * CLEARED_WITHIN_S) == 3
    assert busy(0.9 * tokens_per_s, answers_per_s=0.9) == 2, "answers are computed besides"


def test_who_is_busy_with_vectors_gets_another_replica_and_answers_are_not_taken_for_them() -> None:
    driven = DrivenBrain()
    _room_at(driven, "a", "b")
    driven.run_s = 100.0
    key = driven.know(model_named("m"), wanting(max_replicas=2, kv_tokens=1 << 20))
    driven.ask(key, tokens=(PROMPT, 0))
    driven.run(2.0)
    assert driven.states() == [State.SERVING]
    _embed(driven, key, inputs=7)
    assert driven.states() == [State.SERVING], "what one replica has done in time"
    assert len(driven.brain._services[key].vectors._arrived) == 2, "they are one arrival"
    for _ in range(20):
        _embed(driven, key)
    driven.run(2.0)
    assert driven.states() == [State.SERVING] * 2
    service = driven.brain._services[key]
    assert (service.load.mean_tokens, service.load.per_s(driven.now_s)) == (None, 0.0)
