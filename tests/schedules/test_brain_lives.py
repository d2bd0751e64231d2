"""Whatever happens in whatever order, the brain keeps its books: a world that loses groups and nodes, refuses starts and
answers late, and after every step what must hold."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schedules import events
from schedules.actions import Stop
from schedules.facts import Node, Rate
from schedules.foresight.plan import Kept, Plan
from schedules.lifecycle import State
from schedules.limits import LOST_S, Limits
from schedules.rates import formed
from tests.schedules.driven_brain import SIZE_BYTES, DrivenBrain, model_named, node_named, wanting
from tests.schedules.models import rates_of

NODES = {"a": SIZE_BYTES, "b": SIZE_BYTES, "c": 2 * SIZE_BYTES}
START_TIMEOUT_S = 20.0


class Lives(RuleBasedStateMachine):
    """See the module. Rules are what may happen; what the brain orders in between is obeyed after random delays."""

    rates: Mapping[str, Rate] = {}
    policy = "planned"

    def __init__(self) -> None:
        super().__init__()
        self.driven = DrivenBrain(
            [self.node(name) for name in NODES], self.policy, Limits(START_TIMEOUT_S, 60, 25, consolidate=True)
        )
        self.objectives = {
            "m0": wanting(kv_tokens=64, keep_alive_s=2.0, max_replicas=2),
            "m1": wanting(kv_tokens=256, keep_alive_s=5.0, min_replicas=1),
            "m2": wanting(kv_tokens=128, keep_alive_s=0.0, priority=1),
            "m3": wanting(kv_tokens=640, max_degree=2, keep_alive_s=9.0),
            "m4": wanting(kv_tokens=256, min_replicas=1, priority=-1),
        }
        self.keys = [self.driven.know(model_named(name), wish) for name, wish in self.objectives.items()]
        self.versions, self.wishes = 1, 0
        self.announcements = 0
        self.announced: list[str] = []

    def node(self, name: str) -> Node:
        return node_named(name, NODES[name], self.rates)

    # ---- requests

    @rule(model=st.integers(0, 4), count=st.integers(1, 6), deadline_s=st.sampled_from([1.0, 60.0, float("inf")]))
    def arrive(self, model: int, count: int, deadline_s: float) -> None:
        for _ in range(count):
            self.driven.ask(self.keys[model], deadline_s=self.driven.now_s + deadline_s)

    @precondition(lambda self: self.driven.alive)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.driven.leave(data.draw(st.sampled_from(sorted(self.driven.alive))))

    @rule(model=st.integers(0, 4))
    def announce(self, model: int) -> None:
        self.announcements += 1
        name = f"soon{self.announcements}"
        self.announced.append(name)
        self.driven.tell(events.RequestAnnounced(name, self.keys[model], 20, self.driven.now_s))

    @precondition(lambda self: self.announced)
    @rule()
    def announcement_over(self) -> None:
        self.driven.tell(events.AnnouncementOver(self.announced.pop()))

    @precondition(lambda self: self.driven._on)
    @rule(data=st.data(), refused=st.booleans())
    def break_stream(self, data: st.DataObject, refused: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.driven._on)))
        group = self.driven._on[request]
        kind: Callable[..., Any] = events.RequestRefused if refused else events.RequestBroke
        self.driven.tell(kind(request, group, "as it is"))

    # ---- groups

    @precondition(lambda self: self.driven.brain.replicas())
    @rule(data=st.data())
    def lose_group(self, data: st.DataObject) -> None:
        groups = [r.group for r in self.driven.brain.replicas() if r.state is not State.WANTED]
        if groups:
            self.driven.lose(data.draw(st.sampled_from(groups)))

    @rule(answers=st.lists(st.sampled_from(["failed", "refused", "formed"]), max_size=4))
    def answer_so(self, answers: list[str]) -> None:
        self.driven.answers.extend(answers)

    @rule(
        form_s=st.sampled_from([0.1, 1.0, 6.0]), stop_s=st.sampled_from([0.0, 0.1, 4.0]),
        report_s=st.sampled_from([0.0, 0.05, 2.0]), run_s=st.sampled_from([0.2, 2.0, 12.0]),
    )  # fmt: skip
    def take(self, form_s: float, stop_s: float, report_s: float, run_s: float) -> None:
        self.driven.form_s, self.driven.reserve_s = form_s, form_s / 3
        self.driven.stop_s, self.driven.report_s = stop_s, report_s
        self.driven.run_s, self.driven.first_s = run_s, run_s / 4

    # ---- nodes, models

    @rule(name=st.sampled_from(sorted(NODES)))
    def come_or_go(self, name: str) -> None:
        if name in self.driven.hosts:
            self.driven.leave_node(name)
        else:
            self.driven.join(self.node(name))

    @rule(name=st.sampled_from(sorted(NODES)))
    def fall_silent_or_be_heard(self, name: str) -> None:
        if name in self.driven.hosts:
            self.driven.hosts[name].heard ^= True

    @rule(name=st.sampled_from(sorted(NODES)), drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        self.driven.tell(events.NodeDrained(name) if drained else events.NodeUndrained(name))

    # ---- moves

    @rule(
        go_on_s=st.sampled_from([None, 0.0, 0.05, 4.0]), shift_s=st.sampled_from([0.0, 0.1, 3.0]),
        data=st.data(),
    )  # fmt: skip
    def carry_out(self, go_on_s: float | None, shift_s: float, data: st.DataObject) -> None:
        self.driven.go_on_s, self.driven.shift_s = go_on_s, shift_s
        if self.driven.alive:
            self.driven.staying += data.draw(st.lists(st.sampled_from(sorted(self.driven.alive)), max_size=4))

    @rule(
        kind=st.sampled_from(["consolidate", "migrate", "request"]), model=st.sampled_from([1, 3, 3]),
        then_s=st.sampled_from([0.0, 0.3, 0.5, 2.0]), data=st.data(),
    )  # fmt: skip
    def wish(self, kind: str, model: int, then_s: float, data: st.DataObject) -> None:
        self.wishes += 1
        wish, node = f"w{self.wishes}", data.draw(st.sampled_from(sorted(NODES)))
        running = sorted(self.driven._on)
        if kind == "consolidate":
            self.driven.tell(events.ConsolidationWanted(wish, f"m{model}", data.draw(st.sampled_from(["", node]))))
        elif kind == "migrate" or not running:
            self.driven.tell(events.MigrationWanted(wish, node, f"m{model}"))
        else:
            self.driven.tell(events.MigrationWanted(wish, node, request=data.draw(st.sampled_from(running))))
        self.driven.run(then_s)

    @precondition(lambda self: self.driven.plans)
    @rule(data=st.data(), on=st.booleans())
    def meddle(self, data: st.DataObject, on: bool) -> None:
        """Whatever is said of a move comes late, or twice, or of one that is over."""
        move = data.draw(st.sampled_from(sorted(self.driven.plans)))
        self.driven.tell(events.MoveGoOn(move) if on else events.MoveGivenUp(move, "nobody wants it"))

    @precondition(lambda self: self.driven.assigned)
    @rule(data=st.data(), to=st.sampled_from(["g1", "g2", "g3"]), stays=st.booleans())
    def say_of_nothing(self, data: st.DataObject, to: str, stays: bool) -> None:
        """Of a request that was on its way long ago."""
        request = data.draw(st.sampled_from(sorted(self.driven.assigned)))
        if request not in self.driven._on:
            late = (
                events.RequestStayed(request, "g1", to, "late") if stays else events.RequestShifted(request, "g1", to)
            )
            self.driven.tell(late)

    @rule(lost=st.booleans())
    def scheduler(self, lost: bool) -> None:
        self.driven.tell(events.SchedulerLost() if lost else events.SchedulerJoined())

    @rule(model=st.integers(0, 4))
    def publish(self, model: int) -> None:
        self.versions += 1
        old = self.keys[model]
        self.keys[model] = key = model_named(old.name, f"{old.name}/{self.versions}").key
        self.driven.know(model_named(old.name, key.digest), self.objectives[old.name], opened=self.versions)

    @rule(
        kept=st.dictionaries(st.integers(0, 4), st.integers(1, 2), max_size=3),
        worth=st.dictionaries(st.integers(0, 4), st.sampled_from([0.01, 0.5, 20.0]), max_size=4),
        lasts_s=st.sampled_from([0.0, 2.0, 30.0]), saved_s=st.sampled_from([0.1, 10.0]),
    )  # fmt: skip
    def foresee(self, kept: dict[int, int], worth: dict[int, float], lasts_s: float, saved_s: float) -> None:
        each = tuple(Kept(self.keys[model], count, saved_s, "as it is") for model, count in kept.items())
        worths = {self.keys[model]: worth_s for model, worth_s in worth.items()}
        self.driven.tell(events.PrewarmPlanned(Plan(0.0, lasts_s, (), {}, {}, each, worths)))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5, 3.0, LOST_S + 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.driven.run(seconds)

    # ---- what holds

    @invariant()
    def books_are_kept(self) -> None:
        self.driven.check()

    def teardown(self) -> None:
        """Once the world is quiet whoever waits has an answer in time, and nothing is left but what shall be there."""
        driven = self.driven
        driven.answers.clear()
        driven.staying.clear()
        driven.go_on_s, driven.shift_s = 0.05, 0.1
        self.take(1.0, 0.1, 0.05, 2.0)
        driven.tell(events.SchedulerJoined())
        while self.announced:
            self.announcement_over()
        for name in NODES:
            driven.tell(events.NodeUndrained(name))
            if name not in driven.hosts:
                driven.join(self.node(name))
            driven.hosts[name].heard = True
        waiting = set(driven.alive)
        driven.run(2 * START_TIMEOUT_S)
        assert not waiting & driven.alive, "somebody waits who is forgotten"
        driven.check()
        driven.run(60.0)
        driven.check()
        assert driven.brain.held == 0
        assert set(driven.states()) <= {State.SERVING}
        assert {r.service.model.name for r in driven.brain.replicas()} == {"m1", "m4"}
        assert not driven.brain._fleet.moves.underway.moves
        stops = [stop.group for stop in driven.actions(Stop)]  # type: ignore[attr-defined]
        assert len(stops) == len(set(stops))
        assert driven.refused_for_memory == 0
        assert not driven.brain._books.memory.by_node()
        assert not driven.brain._desk.line.requests
        for request, got in driven.got_tokens.items():
            assert request not in driven.ended or got == driven.tokens, "a token is lost or doubled"


class MeasuredLives(Lives):
    """The same where the brain knows how fast everything is, so that it has moves of its own in mind, and where long requests
    run from the beginning."""

    rates = rates_of(nic=100.0, ssd=200.0, decode=1e4, prefill=1e6) | {formed(2): Rate(0.5, 0.5, 9)}

    def __init__(self) -> None:
        super().__init__()
        books = self.driven.brain._books
        books.learned = books.learned.with_hop(0.1)
        self.take(0.1, 0.1, 0.05, 12.0)
        for model, count in ((3, 5), (1, 2)):
            self.arrive(model, count, float("inf"))
        self.driven.run(0.5)


class PipelinesLive(MeasuredLives):
    """The same with pipelines wherever there can be some."""

    policy = "fixed"


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
MeasuredLives.TestCase.settings = PipelinesLive.TestCase.settings = settings(Lives.TestCase.settings, max_examples=40)
TestLives = Lives.TestCase
TestMeasuredLives, TestPipelinesLive = MeasuredLives.TestCase, PipelinesLive.TestCase
