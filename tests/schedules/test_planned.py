"""Our rule: what must hold of every decision, drawn, and what it does in cases that one knows."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from schedules.events import NodeReported
from schedules.facts import Model, Node, NoPlacement, Placement, Rate, View
from schedules.ledgers.links import Links
from schedules.ledgers.memory import Memory
from schedules.ledgers.nodes import Nodes, link_rates
from schedules.ledgers.shares import Transfer, shares
from schedules.placing import choices
from schedules.placing.decision import Candidate, Corrections, Decision, Question, Running, Wait
from schedules.placing.policies import POLICIES
from schedules.placing.policies.planned import AS_FAST
from schedules.rates import STORE, formed
from tests.schedules.models import measured_views, model_of, models, node_of, objectives, question_of, rates_of
from tests.told import objectives_of

PLANNED = POLICIES["planned"]
_ANY = settings(derandomize=True, max_examples=20_000, deadline=None, database=None, phases=[Phase.generate])


@st.composite
def _questions(draw: st.DrawFn) -> Question:
    """With replicas that run, idle or not, in the memory that nodes have reserved; and starts under way."""
    model = draw(models())
    view = draw(measured_views(model))
    running = []
    for node in view.nodes:
        if node.device_reserved_bytes and draw(st.booleans()):
            idle_s = draw(st.none() | st.floats(0.0, 5.0))
            held = {node.name: draw(st.integers(1, node.device_reserved_bytes))}
            other = replace(model, name=f"other-{node.name}")
            may_stop = idle_s is not None and draw(st.booleans())
            running.append(Running(other, f"group-{node.name}", held, idle_s, 10, draw(st.integers(0, 2)), may_stop))
    links = link_rates(view)
    if links and draw(st.booleans()):
        links[STORE] = draw(st.floats(1.0, 100.0))
    corrections = draw(
        st.sampled_from([Corrections(), Corrections({(1, True): (-0.1, 0.2), (2, True): (0.3, 0.5)}, 0.01)])
    )
    return Question(
        "new", model, draw(objectives()), view, Links(links, 0.0), 0.0, tuple(running), draw(st.integers(1, 50)),
        draw(st.floats(0.0, 5.0)), corrections, draw(st.booleans()),
    )  # fmt: skip


def _fetches() -> st.SearchStrategy[list[tuple[float, float | None, int]]]:
    """Bytes, deadlines and priorities of what is under way, a fetch for each of the first nodes."""
    return st.lists(st.tuples(st.floats(1.0, 500.0), st.none() | st.floats(1.0, 60.0), st.integers(0, 1)), max_size=4)


def _begun(question: Question) -> Links:
    """The question's ledger once its start is under way, and others before and after it that were decided alike."""
    for name in ("first", "second", "new"):
        decision = PLANNED.decide(replace(question, start=name))
        if decision.chosen is not None:
            question.links.begin(decision.chosen.transfers, question.now_s)
    return question.links


@given(_questions())
def test_no_node_is_asked_for_more_than_it_has_after_the_moves_nor_twice(question: Question) -> None:
    chosen = PLANNED.decide(question).chosen
    if chosen is None or chosen.placement is None:
        return
    free = {node.name: node.device_free_bytes for node in question.view.nodes}
    held = {running.group: running.reserved_bytes for running in question.running}
    for move in chosen.moves:
        for node, size_bytes in held[move.group].items():
            free[node] += size_bytes
        if move.to:
            free[move.to] -= sum(held[move.group].values())
            moved_to = question.view.node(move.to)
            assert moved_to is not None
            assert not moved_to.draining
    for stage in chosen.placement.stages:
        free[stage.node] -= stage.reserve_bytes
    used = {*chosen.nodes, *(move.to for move in chosen.moves if move.to)}
    assert all(free[name] >= 0 for name in used)
    assert len(set(chosen.nodes)) == chosen.degree == chosen.placement.degree


@given(_questions())
def test_only_who_may_be_is_ended_or_moved(question: Question) -> None:
    running = {r.group: r for r in question.running}
    for candidate in PLANNED.decide(question).candidates:
        for move in candidate.moves:
            replica = running[move.group]
            assert question.may_migrate and replica.idle_since_s is None if move.to else replica.may_stop


@given(_questions())
def test_no_link_is_oversubscribed_by_what_was_decided(question: Question) -> None:
    links = _begun(question)
    given_out = shares(links.rates, links.transfers)
    for link, rate in links.rates.items():
        assert sum(given_out[t.name] for t in links.transfers if link in t.links) <= rate * (1 + 1e-9)


@settings(max_examples=400)
@given(_questions())
def test_nobody_who_is_in_time_becomes_late_by_what_is_decided_after_it(question: Question) -> None:
    promised = dict[str, float]()
    for name in ("first", "second", "third"):
        decision = PLANNED.decide(replace(question, start=name))
        if decision.chosen is None:
            continue
        question.links.begin(decision.chosen.transfers, question.now_s)
        forecast = question.links.forecast(question.now_s)
        promised |= {t.name: t.deadline_s for t in decision.chosen.transfers if t.deadline_s is not None}
        late = {name for name, until_s in promised.items() if forecast[name] > until_s * (1 + 1e-9) + 1e-9}
        assert not late


def _misses(question: Question, candidate: Candidate) -> bool:
    goal, found = question.objectives, candidate.prediction
    assert found is not None
    in_time = goal.ttft_s is None or found.ttft_bad_s <= goal.ttft_s
    return not (in_time and (goal.tpot_s is None or found.tpot_bad_s <= goal.tpot_s))


@pytest.mark.parametrize("anchor", ["hydraserve", "serverlessllm"])
@given(question=_questions(), under_way=_fetches())
def test_by_its_own_predictions_it_is_never_worse_than_an_anchor(
    anchor: str, question: Question, under_way: list[tuple[float, float | None, int]]
) -> None:
    """Worse is to miss a service level that the other meets; slower where there is none; dearer where both meet it."""
    question.links.begin(
        [
            Transfer(f"t{i}/0/store", (STORE, f"nic:{node.name}"), size_bytes, rank, deadline_s, node.name)
            for i, (node, (size_bytes, deadline_s, rank)) in enumerate(
                zip(question.view.nodes, under_way, strict=False)
            )
        ],
        0.0,
    )
    theirs, ours = POLICIES[anchor].decide(question).chosen, PLANNED.decide(question).chosen
    if theirs is None or not question.links.consider(theirs.transfers, question.now_s).admitted:
        return
    assert ours is not None
    if theirs.prediction is None:
        return
    assert ours.prediction is not None
    if _misses(question, theirs):
        if _misses(question, ours):
            assert ours.prediction.ttft_s <= theirs.prediction.ttft_s * AS_FAST + 1e-9
        return
    assert not _misses(question, ours)
    if question.objectives.ttft_s is None:
        assert ours.prediction.ttft_s <= theirs.prediction.ttft_s * AS_FAST + 1e-9
    else:
        assert ours.prediction.cost_byte_s <= theirs.prediction.cost_byte_s * (1 + 1e-9)


@given(_questions(), st.randoms(use_true_random=False))
def test_the_same_question_gets_the_same_answer_in_whatever_order_nodes_come(
    question: Question, random: Random
) -> None:
    nodes, running = list(question.view.nodes), list(question.running)
    random.shuffle(nodes)
    random.shuffle(running)
    other = replace(question, view=View(tuple(nodes)), running=tuple(running))
    assert PLANNED.decide(question).as_json() == PLANNED.decide(other).as_json()


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(question=_questions())
def test_what_was_taken_was_not_ruled_out_and_all_else_says_why(policy: str, question: Question) -> None:
    decision = POLICIES[policy].decide(question)
    for candidate in decision.candidates:
        assert bool(candidate.ruled_out) == (candidate is not decision.chosen)
    assert (decision.chosen is not None) == isinstance(decision.outcome, Placement)
    assert decision.as_json()["reason"]


@given(_questions(), st.floats(1.0, 5.0))
def test_more_bandwidth_is_never_slower_for_one_stage(question: Question, times: float) -> None:
    alone = replace(
        question, view=View(question.view.nodes[:1]), running=(), objectives=replace(question.objectives, max_degree=1)
    )
    before = PLANNED.decide(alone).chosen
    faster = Links({link: rate * times for link, rate in alone.links.rates.items()}, 0.0)
    after = PLANNED.decide(replace(alone, links=faster)).chosen
    if before is not None and before.prediction is not None:
        assert after is not None
        assert after.prediction is not None
        assert after.prediction.ttft_s <= before.prediction.ttft_s + 1e-9


# ---- by example: units of 10 bytes, cards of 10 bytes/s, groups formed in half a second


def _node(name: str, device_bytes: int = 200, units: Mapping[str, str] | None = None, **speeds: float) -> Node:
    node = node_of(name, device_bytes, units=dict(units or {}))
    return replace(node, rates=rates_of(**speeds) | {formed(4): Rate(0.6, 0.6, 9)}, peer_port=1)


def _model(layers: int = 6, name: str = "model") -> Model:
    """Of units that no model of another name shares."""
    model = model_of([10] * (layers + 2))
    return replace(model, name=name, units=tuple(replace(u, digest=f"{name}/{u.name}") for u in model.units))


def _held(model: Model, tier: str = "dram") -> dict[str, str]:
    return {unit.digest: tier for unit in model.units}


def _taken(decision: Decision) -> Candidate:
    assert decision.chosen is not None, decision.as_json()
    return decision.chosen


def _ttft_s(candidate: Candidate) -> float:
    assert candidate.prediction is not None
    return candidate.prediction.ttft_s


def test_a_node_that_has_all_in_dram_wins_alone() -> None:
    model = _model()
    view = View((_node("a"), _node("b"), _node("warm", units=_held(model))))
    for goal in (objectives_of(kv_tokens=1), objectives_of(ttft_s=20.0, kv_tokens=1)):
        chosen = _taken(PLANNED.decide(question_of(model, view, goal)))
        assert (chosen.nodes, chosen.transfers) == (("warm",), ())


def test_a_node_that_has_the_bytes_but_forms_groups_slowly_does_not_win() -> None:
    """Each degree had one candidate, on the nodes that have its bytes soonest; who may be better is looked at as well."""
    model = _model()
    view = View((_node("near", units=_held(model, "ssd"), ssd=25.0, formed=60.0), _node("far", nic=20.0)))
    decision = PLANNED.decide(question_of(model, view, objectives_of(max_degree=1, kv_tokens=1)))
    assert _taken(decision).nodes == ("far",)
    assert {c.nodes for c in decision.candidates} == {("near",), ("far",)}


def test_what_was_learned_takes_no_more_than_half_of_a_prediction() -> None:
    """A start that went wrong once had the next one predicted after no time at all."""
    model = _model()
    view = View((_node("warm", units=_held(model)),))
    plain = _ttft_s(_taken(PLANNED.decide(question_of(model, view))))
    learned = Corrections({(1, "dram"): (-100.0, 0.0)})
    assert _ttft_s(_taken(PLANNED.decide(question_of(model, view, corrections=learned)))) == pytest.approx(plain / 2)


def test_without_a_service_level_the_fastest_degree_is_taken() -> None:
    chosen = _taken(PLANNED.decide(question_of(_model(), View(tuple(_node(name) for name in "abcd")))))
    assert chosen.degree == 4
    assert _ttft_s(chosen) == pytest.approx(2.0, abs=0.01)


def test_nodes_of_one_machine_read_from_one_disk() -> None:
    """Alone 60 bytes take 3 s, over four disks a quarter of that; over one disk four stages gain nothing."""
    model = _model()
    nodes = [_node(name, units=_held(model, "ssd")) for name in "abcd"]
    fastest: dict[str, dict[int, float]] = {}
    for machine in ("", "box"):
        view = View(tuple(replace(node, machine=machine) for node in nodes))
        found = PLANNED.decide(question_of(model, view)).candidates
        fastest[machine] = {degree: min(_ttft_s(c) for c in found if c.degree == degree) for degree in (1, 2, 4)}
    apart, together = fastest[""], fastest["box"]
    assert apart[1] == together[1]
    assert apart[4] < apart[2] < apart[1]
    assert together[2] >= 0.9 * together[1]
    assert together[4] >= 0.9 * together[1]


def test_a_token_time_rules_out_pipelines_whose_hops_are_too_slow() -> None:
    view = View(tuple(_node(name) for name in "abcd"))
    question = question_of(_model(), view, objectives_of(tpot_s=0.5, kv_tokens=1), corrections=Corrections(hop_s=0.3))
    decision = PLANNED.decide(question)
    assert _taken(decision).degree == 1
    assert {c.degree: "ms a token" in c.ruled_out for c in decision.candidates} == {1: False, 2: True, 3: True, 4: True}


def test_a_model_larger_than_any_device_gets_the_degree_that_it_needs() -> None:
    view = View(tuple(_node(f"n{i}", device_bytes=25) for i in range(8)))
    decision = PLANNED.decide(question_of(_model(8), view, objectives_of(max_degree=2, kv_tokens=1)))
    assert _taken(decision).degree == 5
    assert [c.degree for c in decision.candidates][:2] == [1, 2]
    assert all("free" in c.ruled_out for c in decision.candidates[:2])


def test_a_model_that_fits_nowhere_is_told_so_without_trying_every_degree() -> None:
    """Every degree up to the layers was split once, seconds of work in a full cluster."""
    view = View(tuple(_node(f"n{i:02}", device_bytes=5) for i in range(90)))
    decision = PLANNED.decide(question_of(_model(80), view))
    assert isinstance(decision.outcome, NoPlacement)
    assert "no room for model" in decision.outcome.reason
    assert len(decision.candidates) == 4


def test_where_the_store_gives_no_more_than_one_card_takes_more_stages_do_not_pay() -> None:
    view = View(tuple(_node(name) for name in "abcd"))
    links = Links(link_rates(view) | {STORE: 10.0}, 0.0)
    decision = PLANNED.decide(question_of(_model(), view, links=links))
    assert _taken(decision).degree == 1
    assert all("slower" in c.ruled_out or "dearer" in c.ruled_out for c in decision.candidates if c.degree > 1)


def test_peers_that_hold_the_units_help_where_the_store_is_the_limit() -> None:
    model = _model()
    cold, full = [_node(name) for name in "abcd"], [_node(f"p{i}", 0, _held(model)) for i in range(4)]
    limit = {STORE: 10.0}
    lone = View(tuple(cold))
    without = _taken(PLANNED.decide(question_of(model, lone, links=Links(link_rates(lone) | limit, 0.0))))
    both = View((*cold, *full))
    helped = _taken(PLANNED.decide(question_of(model, both, links=Links(link_rates(both) | limit, 0.0))))
    assert _ttft_s(helped) < _ttft_s(without) * 0.6
    assert all(link.startswith(("out:p", "nic:")) for t in helped.transfers for link in t.links)


def _second_start(names: str, ttft_s: float) -> tuple[Decision, Candidate]:
    """Two of eight units each, over a store as fast as one card, the first admitted; what becomes of the second."""
    view = View(tuple(_node(name) for name in names))
    goal = objectives_of(ttft_s=ttft_s, max_degree=1, kv_tokens=1)
    question = question_of(_model(), view, goal, links=Links(link_rates(view) | {STORE: 10.0}, 0.0))
    first = _taken(PLANNED.decide(question))
    question.links.begin(first.transfers, 0.0)
    return PLANNED.decide(replace(question, start="second")), first


def test_a_start_that_would_make_another_late_waits_until_that_has_its_bytes() -> None:
    decision, _ = _second_start("ab", ttft_s=10.0)
    assert isinstance(decision.outcome, Wait)
    assert decision.outcome.until_s == 8.0
    assert "it would make the start of new later than promised" in decision.outcome.reason
    assert decision.as_json()["outcome"] == "wait"


def test_a_start_that_makes_nobody_late_goes_ahead() -> None:
    decision, first = _second_start("ab", ttft_s=30.0)
    assert _taken(decision).nodes != first.nodes


def test_a_start_goes_where_nobody_is_in_its_way() -> None:
    """Behind the other's fetches the faster card is the slower."""
    model = _model()
    view = View((_node("busy", nic=20.0), _node("free", nic=12.0)))
    question = question_of(model, view, objectives_of(ttft_s=10.0, max_degree=1, kv_tokens=1))
    first = _taken(PLANNED.decide(question))
    question.links.begin(first.transfers, 0.0)
    second = _taken(PLANNED.decide(replace(question, start="second")))
    assert (first.nodes, second.nodes) == (("busy",), ("free",))


def test_a_promise_leaves_time_for_what_is_computed_after_the_last_byte() -> None:
    """The fetch was allowed all the time to the first token: at 8 s of 12 with 3 to compute, a second start was let in."""
    view = View(tuple(_node(name, decode=80 / 3) for name in "ab"))
    goal = objectives_of(ttft_s=12.0, max_degree=1, kv_tokens=1)
    question = question_of(_model(), view, goal, links=Links(link_rates(view) | {STORE: 10.0}, 0.0))
    first = _taken(PLANNED.decide(question))
    assert all(t.deadline_s is not None and 8.0 < t.deadline_s < 12.0 for t in first.transfers)
    question.links.begin(first.transfers, 0.0)
    assert isinstance(PLANNED.decide(replace(question, start="second")).outcome, Wait)


def test_who_cannot_be_in_time_any_more_keeps_nobody_off() -> None:
    decision, first = _second_start("ab", ttft_s=5.0)
    assert all(t.deadline_s is None for t in first.transfers)
    assert isinstance(decision.outcome, Placement)


def test_the_time_that_a_request_has_waited_counts_but_not_as_cost() -> None:
    question = question_of(_model(), View((_node("a"),)), objectives_of(ttft_s=10.0, kv_tokens=1))
    fresh, late = (_taken(PLANNED.decide(replace(question, waited_s=waited_s))) for waited_s in (0.0, 4.0))
    assert fresh.prediction is not None
    assert late.prediction is not None
    assert late.prediction.ttft_s == fresh.prediction.ttft_s + 4.0
    assert late.prediction.cost_byte_s == pytest.approx(fresh.prediction.cost_byte_s)


def test_at_the_bad_end_all_that_is_fetched_takes_as_much_longer() -> None:
    """Of two sources the second was reckoned from the first one's bad end to its own mean: half the truth."""
    model = _model(4)
    slow = {name: Rate(rate.mean, rate.mean / 2 if name == "nic" else rate.bad, 9) for name, rate in rates_of().items()}
    target = replace(_node("target"), rates=slow)
    peer = replace(_node("peer", 0, dict(list(_held(model).items())[:3])), rates=rates_of())
    view = View((target, peer))
    chosen = _taken(PLANNED.decide(question_of(model, view, objectives_of(max_degree=1, kv_tokens=1))))
    assert len(chosen.transfers) == 2
    assert chosen.prediction is not None
    assert chosen.prediction.ttft_s == pytest.approx(6.0, abs=0.01)
    assert chosen.prediction.ttft_bad_s == pytest.approx(12.0, abs=0.01)


def test_nothing_measured_is_the_largest_degree_that_fits_and_ends_nobody() -> None:
    view = View((node_of("a", 100), node_of("b", 100), node_of("c", 100, reserved_bytes=100)))
    idle = Running(_model(name="other"), "idle", {"c": 100}, 0.0, may_stop=True)
    chosen = _taken(PLANNED.decide(question_of(_model(), view, running=(idle,))))
    assert (chosen.degree, chosen.moves) == (2, ())
    assert chosen.placement is not None
    assert "nothing is measured" in chosen.placement.reasons[0]


# ---- room that others hold


def _crowded(idle_since_s: float | None = 0.0, may_stop: bool | None = None, **more: object) -> Question:
    """The only node with the units is full of another's replica, which may be stopped if it is idle unless something else
    is said; a node without them may be free."""
    may_stop = idle_since_s is not None if may_stop is None else may_stop
    model = _model()
    full = replace(_node("full", 100, _held(model)), device_reserved_bytes=100, peer_port=0)
    nodes = (full, *more.pop("others", ()))  # type: ignore[misc]
    running = Running(_model(2, "other"), "there", {"full": 100}, idle_since_s, 10, may_stop=may_stop)
    return question_of(model, View(nodes), running=(running,), **more)


def test_idle_replicas_make_room_when_memory_is_short() -> None:
    chosen = _taken(PLANNED.decide(_crowded()))
    assert chosen.nodes == ("full",)
    assert [(move.group, move.to) for move in chosen.moves] == [("there", "")]


def test_those_that_work_and_those_that_may_not_be_stopped_do_not() -> None:
    """Whose replica may go for whom is the brain's to say: of a higher priority, kept warm, or needed again at once."""
    assert isinstance(PLANNED.decide(_crowded(idle_since_s=None)).outcome, NoPlacement)
    assert isinstance(PLANNED.decide(_crowded(may_stop=False)).outcome, NoPlacement)
    assert _taken(PLANNED.decide(_crowded(may_stop=True))).moves


def test_nobody_makes_room_for_what_saves_less_than_it_costs() -> None:
    """A fast card brings the model in 1.3 s; the other's next start would take 4."""
    question = _crowded(others=(_node("free", nic=60.0),))
    decision = PLANNED.decide(question)
    assert _taken(decision).nodes == ("free",)
    assert any("cost others" in c.ruled_out for c in decision.candidates if c.moves)


def test_one_makes_room_for_what_saves_more_than_it_costs() -> None:
    chosen = _taken(PLANNED.decide(_crowded(others=(_node("free", nic=1.0),))))
    assert (chosen.nodes, len(chosen.moves)) == (("full",), 1)


def test_nobody_is_ended_for_a_degree_that_does_not_fit_while_another_does() -> None:
    """A degree that needed room was once weighed against nothing at all, and taken as it was a little faster."""
    model = _model(2)
    full = replace(_node("full", 60), device_reserved_bytes=60)
    running = Running(_model(60, "other"), "there", {"full": 60}, 0.0, may_stop=True)
    decision = PLANNED.decide(question_of(model, View((full, _node("free"))), running=(running,)))
    assert (_taken(decision).nodes, _taken(decision).moves) == (("free",), ())
    assert any(c.degree == 2 and "cost others" in c.ruled_out for c in decision.candidates)


def test_nobody_is_ended_where_the_service_level_is_met_without() -> None:
    question = _crowded(others=(_node("free"),), objectives=objectives_of(ttft_s=30.0, kv_tokens=1))
    decision = PLANNED.decide(question)
    assert _taken(decision).nodes == ("free",)
    assert not any(c.moves for c in decision.candidates)


def test_one_makes_room_where_only_that_meets_the_service_level() -> None:
    question = _crowded(others=(_node("free", nic=60.0),), objectives=objectives_of(ttft_s=1.0, kv_tokens=1))
    assert _taken(PLANNED.decide(question)).moves


def test_of_many_the_least_important_and_longest_idle_make_room_and_no_more_than_must() -> None:
    full = replace(_node("full", 90), device_reserved_bytes=90)
    running = tuple(
        Running(_model(1, f"m-{group}"), group, {"full": 45}, idle_since_s, 0, priority, may_stop=True)
        for group, idle_since_s, priority in (("later", 9.0, 0), ("sooner", 1.0, 0), ("important", 0.0, 1))
    )
    full = replace(full, device_bytes=135, device_reserved_bytes=135)
    goal = objectives_of(priority=1, kv_tokens=1)
    chosen = _taken(PLANNED.decide(question_of(_model(2), View((full,)), goal, running=running)))
    assert [move.group for move in chosen.moves] == ["sooner"]


def test_a_replica_that_works_is_migrated_where_that_is_allowed_and_pays() -> None:
    question = _crowded(idle_since_s=None, others=(_node("free", 100, _held(_model())),), may_migrate=True)
    question = replace(question, objectives=replace(question.objectives, max_degree=1))
    decision = PLANNED.decide(question)
    assert _taken(decision).nodes == ("free",)
    held = _node("near", 100, {unit.digest: "dram" for unit in _model(2, "other").units}, nic=0.1)
    question = _crowded(idle_since_s=None, others=(held,), may_migrate=True)
    chosen = _taken(PLANNED.decide(replace(question, objectives=replace(question.objectives, max_degree=1))))
    assert [(move.group, move.to) for move in chosen.moves] == [("there", "near")]
    assert chosen.nodes == ("full",)
    assert not any(c.moves for c in PLANNED.decide(replace(question, may_migrate=False)).candidates)


def test_nobody_is_migrated_to_a_node_that_drains() -> None:
    question = _crowded(idle_since_s=None, others=(replace(_node("leaving"), draining=True),), may_migrate=True)
    assert isinstance(PLANNED.decide(question).outcome, NoPlacement)


def test_nobody_is_migrated_where_nothing_is_known_of_how_long_that_takes() -> None:
    full, bare = node_of("full", 100, 60), node_of("bare", 79)
    running = Running(_model(2, "other"), "there", {"full": 60}, None)
    goal = objectives_of(max_degree=1, kv_tokens=1)
    model = replace(_model(1), units=(replace(_model(1).units[0], size_bytes=80), *_model(1).units[1:]))
    decision = PLANNED.decide(question_of(model, View((full, bare)), goal, running=(running,), may_migrate=True))
    assert isinstance(decision.outcome, NoPlacement)
    assert "nothing is known of how long moving others would take" in decision.outcome.reason


def test_a_start_that_is_late_already_is_promised_nothing() -> None:
    """With no speed known yet it was promised the time that had passed, which others were then held up for."""
    view = View((replace(_node("a"), rates={}),))
    question = question_of(_model(), view, objectives_of(ttft_s=0.5, max_degree=1, kv_tokens=1), links=Links({}, 0.0))
    chosen = _taken(PLANNED.decide(replace(question, waited_s=1.0)))
    assert {transfer.deadline_s for transfer in chosen.transfers} == {None}
    assert {transfer.deadline_s for transfer in _taken(PLANNED.decide(question)).transfers} != {None}


# ---- what is promised to others


def test_memory_that_is_promised_is_not_promised_again() -> None:
    """Two starts at once were both sent to a node that had room for one, which refused the second."""
    view = View((_node("roomy", 100), _node("other", 90)))
    goal, memory = objectives_of(max_degree=1, kv_tokens=1), Memory()
    question = question_of(_model(), view, goal, memory=memory)
    taken = []
    for name in ("first", "second", "third"):
        decision = PLANNED.decide(replace(question, start=name))
        if decision.chosen is None or decision.chosen.placement is None:
            assert "no room" in decision.as_json()["reason"]
            continue
        taken += decision.chosen.nodes
        memory.promise(name, {stage.node: stage.reserve_bytes for stage in decision.chosen.placement.stages})
    assert sorted(taken) == ["other", "roomy"]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(question=_questions(), data=st.data())
def test_no_policy_gives_what_is_promised_away_again(policy: str, question: Question, data: st.DataObject) -> None:
    memory = Memory()
    for node in question.view.nodes:
        memory.promise(f"to {node.name}", {node.name: data.draw(st.integers(0, 100))})
    question = replace(question, memory=memory, running=())
    chosen = POLICIES[policy].decide(question).chosen
    for stage in chosen.placement.stages if chosen is not None and chosen.placement is not None else ():
        node = question.view.node(stage.node)
        assert node is not None
        assert stage.reserve_bytes <= memory.free_bytes(node)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(question=_questions(), data=st.data())
def test_nodes_that_are_kept_get_the_same_answer_as_a_look_at_all_of_them(
    policy: str, question: Question, data: st.DataObject
) -> None:
    nodes, memory = Nodes(), Memory()
    for node in data.draw(st.permutations(question.view.nodes)):
        nodes.report(NodeReported(replace(node, draining=False), node.units))
        if node.draining:
            nodes.drain(node.name)
        if data.draw(st.booleans()):
            memory.promise(f"to {node.name}", {node.name: data.draw(st.integers(0, 100))})
    question = replace(question, memory=memory)
    question.links.begin([Transfer(f"t/{node.name}", (f"nic:{node.name}",), 50.0, queue=node.name)
                          for node in question.view.nodes[::2]], 0.0)  # fmt: skip
    anew, kept = (POLICIES[policy].decide(replace(question, view=view)) for view in (question.view, nodes.view()))
    assert anew == kept


@given(_questions(), _fetches())
def test_who_is_not_looked_at_since_it_would_be_dearer_would_not_have_been_chosen(
    question: Question, fetches: list[tuple[float, float | None, int]]
) -> None:
    begun = [
        Transfer(f"s{index}", (f"nic:{node.name}",), size_bytes, priority, deadline_s, node.name)
        for index, (node, (size_bytes, deadline_s, priority)) in enumerate(
            zip(question.view.nodes, fetches, strict=False)
        )
    ]
    question.links.begin(begun, 0.0)
    found = PLANNED.decide(question)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "_may_be_cheaper", lambda *_: True)
        of_all = PLANNED.decide(question)
    assert found.outcome == of_all.outcome or _chosen(found) == _chosen(of_all)
    assert len(found.candidates) <= len(of_all.candidates)


def _chosen(decision: Decision) -> object:
    """But for the words, which count those that were looked at."""
    chosen = decision.chosen
    return chosen and (chosen.nodes, chosen.prediction, chosen.moves, chosen.transfers)


def test_who_would_be_dearer_is_not_looked_at() -> None:
    def fewer(question: Question) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choices, "_may_be_cheaper", lambda *_: True)
            of_all = PLANNED.decide(question)
        return len(PLANNED.decide(question).candidates) < len(of_all.candidates)

    assert fewer(find(_questions(), fewer, settings=_ANY))
