"""A brain with a small world around it under a clock of its own: nodes that reserve and report, groups that form and stop,
requests that give tokens. What the brain orders is obeyed after the world's delays; faults are the test's."""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from schedules import events
from schedules.actions import Action, Adopt, Assign, MoveAt, Reject, Replay, Shift, Start, Stop, WakeAt, Why
from schedules.brain import Brain
from schedules.facts import Model, ModelKey, Node, Rate, Unit
from schedules.lifecycle import State
from schedules.limits import Limits
from schedules.moving.plan import Plan, Step
from schedules.moving.steps import TABLE as STEPS
from schedules.objectives import Objectives
from schedules.placing.decision import Listed
from schedules.placing.policies import POLICIES
from schedules.requests import Stand
from schedules.service import Replica
from tests.told import objectives_of

UNIT_BYTES = 10
SIZE_BYTES = 4 * UNIT_BYTES
"""What a replica of a model of `model_named` takes, in one stage."""
HEARD_EVERY_S = 1.0


def model_named(name: str, digest: str = "") -> Model:
    """A model of two layers whose KV cache takes no room."""
    digest = digest or f"{name}/1"
    units = tuple(Unit(f"unit{i}", f"{digest}/{i}", UNIT_BYTES) for i in range(4))
    return Model(name, digest, units, False, 0)


def wanting(**more: float) -> Objectives:
    """What is wanted of a model: one stage, and a KV cache for many requests, unless `more` says otherwise."""
    return objectives_of(**{"kv_tokens": 1024, "max_degree": 1, **more})  # type: ignore[arg-type]


def node_named(name: str, device_bytes: int = SIZE_BYTES, rates: Mapping[str, Rate] | None = None) -> Node:
    """An empty node."""
    return Node(
        name, f"tcp://{name}", "127.0.0.1", 1, 0, 0, 0, 0, device_bytes, 0, 1, 0, rates=rates or {}, peer_port=1,
    )  # fmt: skip


@dataclass
class Host:
    """A node as it is, whatever it says. `reserved` are bytes by group."""

    node: Node
    reserved: dict[str, int] = field(default_factory=dict)
    heard: bool = True
    here: bool = True

    def reports(self) -> events.NodeReported:
        taken = sum(self.reserved.values())
        return events.NodeReported(
            replace(self.node, device_reserved_bytes=taken, groups=tuple(self.reserved)), dict[str, str]()
        )


class DrivenBrain:
    """See the module. Delays in seconds: `form_s` from order to group, `reserve_s` of it until memory is reserved, `stop_s`
    until a group is gone, `report_s` until a node says so; a request gives its first token after `first_s` and its last
    after `run_s`, `tokens` in all; whoever carries moves out goes on after `go_on_s`, never if that is None, and a request
    goes over after `shift_s`, or stays if its name is one of those of `staying`."""

    def __init__(self, nodes: Iterable[Node] = (), policy: str = "planned", limits: Limits | None = None) -> None:
        self.limits = limits or Limits(30.0, 1000, 1000, consolidate=True)
        self.brain = Brain(POLICIES[policy], self.limits, "g", 0.0)
        self.now_s = 0.0
        self.form_s, self.reserve_s, self.stop_s, self.report_s = 1.0, 0.1, 0.1, 0.05
        self.first_s, self.run_s, self.tokens = 0.1, 1.0, 8
        self.go_on_s: float | None = 0.05
        self.shift_s = 0.1
        self.staying: list[str] = []
        self.steps: dict[str, list[Step]] = {}
        self.plans: dict[str, Plan] = {}
        self.shifts: list[tuple[str, str, str]] = []
        self.answers: deque[str] = deque()
        """What becomes of the next starts: "formed", "failed" or "refused"; formed when there is nothing here."""
        self.done: list[tuple[float, Action]] = []
        self.hosts: dict[str, Host] = {}
        self.groups: dict[str, Start] = {}
        self.refused_for_memory = 0
        self.ended: dict[str, float] = {}
        self.rejected: dict[str, Reject] = {}
        self.assigned: dict[str, list[str]] = {}
        self.got_tokens: Counter[str] = Counter()
        self._formed: set[str] = set()
        self._stopping: set[str] = set()
        self._numbers, self._names = count(), count(1)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._wake_s: float | None = None
        self._on: dict[str, str] = {}
        self.alive: set[str] = set()
        self.embedded: set[str] = set()
        """Those that are to have a vector, which comes with their end."""
        for node in nodes:
            self.join(node)

    # ---- the clock

    def later(self, after_s: float, happens: Callable[[], None]) -> None:
        """It happens then."""
        heapq.heappush(self._later, (self.now_s + after_s, next(self._numbers), happens))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until_s = self.now_s + seconds
        while True:
            next_s = self._later[0][0] if self._later else float("inf")
            if self._wake_s is not None and self._wake_s <= min(next_s, until_s):
                self.now_s, self._wake_s = max(self.now_s, self._wake_s), None
                self.tell(events.Ticked())
            elif next_s <= until_s:
                self.now_s, _, happens = heapq.heappop(self._later)
                happens()
            else:
                self.now_s = until_s
                return

    # ---- what happens

    def tell(self, event: events.Event) -> tuple[Action, ...]:
        """The brain hears of it now, and is obeyed."""
        actions = self.brain.handle(event, self.now_s)
        for action in actions:
            self.done.append((self.now_s, action))
            self._obey(action)
        return actions

    def know(self, model: Model, objectives: Objectives | None = None, opened: int = 0) -> ModelKey:
        self.tell(events.ModelKnown(model, objectives or wanting(), opened))
        return model.key

    def join(self, node: Node) -> None:
        """The node is there from now on, and is heard once a second."""
        host = self.hosts[node.name] = Host(node)
        self.tell(host.reports())
        self.later(HEARD_EVERY_S, lambda: self._beat(host))

    def _beat(self, host: Host) -> None:
        if self.hosts.get(host.node.name) is host and host.here:
            if host.heard:
                self.tell(host.reports())
            self.later(HEARD_EVERY_S, lambda: self._beat(host))

    def leave_node(self, name: str) -> None:
        """The node is gone."""
        self.hosts.pop(name).here = False
        self.tell(events.NodeLeft(name))

    def ask(
        self,
        key: ModelKey,
        name: str = "",
        deadline_s: float = float("inf"),
        tokens: tuple[int, int] = (24, 8),
        more: bool = False,
    ) -> str:
        """A request arrives; its name."""
        name = name or f"r{next(self._names)}"
        self.alive.add(name)
        if not tokens[1]:
            self.embedded.add(name)
        self.tell(events.RequestArrived(name, key, *tokens, self.now_s, deadline_s, more))
        return name

    def leave(self, name: str) -> None:
        """Nobody wants the request's tokens any more."""
        self.alive.discard(name)
        self._on.pop(name, None)
        self.tell(events.RequestLeft(name))

    def lose(self, group: str) -> None:
        """The group can serve no more."""
        self.tell(events.GroupLost(group, "a stage died"))

    # ---- what the brain orders

    def _obey(self, action: Action) -> None:
        match action:
            case Start():
                self._form(action)
            case Adopt(group):
                assert group in self.groups, "it is not there"
                self.later(0.01, lambda: self._join_group(group))
            case Stop(group):
                self._stop(group)
            case Assign(request, group):
                self._assign(request, group)
            case Replay(request, group, tokens):
                assert self._on.pop(request) == group
                assert tokens == self.got_tokens[request]
            case Reject(request):
                assert request in self.alive, "it is over"
                self.alive.discard(request)
                self._on.pop(request, None)
                self.rejected[request] = action
            case MoveAt(plan, step):
                self._move(plan, step)
            case Shift(request, group, to):
                self._shift(request, group, to)
            case WakeAt(at_s):
                self._wake_s = at_s
            case _:
                pass

    def _form(self, start: Start) -> None:
        group = start.group
        assert group not in self.groups, "a group's name is used once"
        assert start.behind or start.timeout_s == self.limits.start_timeout_s
        self.groups[group] = start
        answer = self.answers.popleft() if self.answers else "formed"
        if answer in ("failed", "refused"):
            self.later(self.reserve_s, lambda: self._fail(group, answer == "refused"))
        else:
            self.later(self.reserve_s, lambda: self._reserve(start))

    def _fail(self, group: str, refused: bool) -> None:
        if group not in self._stopping:
            self.tell(events.GroupFailed(group, "refused" if refused else "it failed", refused))

    def _reserve(self, start: Start) -> None:
        group, stages = start.group, start.placement.stages
        if group in self._stopping:
            return
        hosts = [self.hosts.get(stage.node) for stage in stages]
        if any(host is None for host in hosts):
            self._fail(group, False)
            return
        for host, stage in zip(hosts, stages, strict=True):
            assert host is not None
            if sum(host.reserved.values()) + stage.reserve_bytes > host.node.device_bytes:
                self.refused_for_memory += 1
                self._free(group)
                self._fail(group, True)
                return
            host.reserved[group] = stage.reserve_bytes
        for host in hosts:
            self._report_soon(host)
        self.later(self.form_s - self.reserve_s, lambda: self._join_group(group))

    def _join_group(self, group: str) -> None:
        if group not in self._stopping:
            self._formed.add(group)
            self.tell(events.GroupFormed(group))

    def _stop(self, group: str) -> None:
        assert group in self.groups, "it was never started"
        assert group not in self._stopping, "it is stopped once"
        self._stopping.add(group)
        self._formed.discard(group)
        self.later(self.stop_s, lambda: self._stopped(group))

    def _stopped(self, group: str) -> None:
        hosts = self._free(group)
        self.tell(events.GroupStopped(group))
        for host in hosts:
            self._report_soon(host)

    def _free(self, group: str) -> list[Host]:
        return [host for host in self.hosts.values() if host.reserved.pop(group, None) is not None]

    def _report_soon(self, host: Host | None) -> None:
        if host is not None:
            report = host.reports()
            self.later(self.report_s, lambda: self._report(host, report))

    def _report(self, host: Host, report: events.NodeReported) -> None:
        if host.here and host.heard:
            self.tell(report)

    def _assign(self, request: str, group: str) -> None:
        assert request in self.alive, "it is over"
        assert request not in self._on, "it runs already"
        assert group in self._formed, "the group is not there"
        self._on[request] = group
        turns = self.assigned.setdefault(request, [])
        turns.append(group)
        turn = len(turns)
        self.later(self.first_s, lambda: self._give(request, turn, 1))
        self.later(self.run_s, lambda: self._end(request, turn))

    def _move(self, plan: Plan, step: Step) -> None:
        steps = self.steps.setdefault(plan.move, [])
        assert step is Step.ORDERED if not steps else step in STEPS[steps[-1]]
        assert self.plans.setdefault(plan.move, plan) is plan
        steps.append(step)
        if step in (Step.ORDERED, Step.READY) and self.go_on_s is not None:
            self.later(self.go_on_s, lambda: self.tell(events.MoveGoOn(plan.move)) and None)

    def _shift(self, request: str, group: str, to: str) -> None:
        assert self._on.get(request) == group, "it runs elsewhere"
        assert to in self._formed, "the group is not there"
        assert group != to
        turn = len(self.assigned[request])
        self.later(self.shift_s, lambda: self._shifted(request, group, to, turn))

    def _shifted(self, request: str, group: str, to: str, turn: int) -> None:
        if not self._runs(request, turn) or self._on[request] != group:
            return
        if to not in self._formed or request in self.staying:
            if request in self.staying:
                self.staying.remove(request)
            self.tell(events.RequestStayed(request, group, to, "it cannot go there"))
            return
        self._on[request] = to
        self.shifts.append((request, group, to))
        self.tell(events.RequestShifted(request, group, to))

    def _runs(self, request: str, turn: int) -> bool:
        return request in self._on and len(self.assigned[request]) == turn

    def _give(self, request: str, turn: int, tokens: int) -> None:
        if self._runs(request, turn) and request not in self.embedded:
            self.got_tokens[request] += tokens
            self.tell(events.RequestProgressed(request, self._on[request], tokens))

    def _end(self, request: str, turn: int) -> None:
        if self._runs(request, turn):
            self._give(request, turn, self.tokens - self.got_tokens[request])
            if request in self.embedded:
                self.tell(events.RequestProgressed(request, self._on[request], 0))
            del self._on[request]
            self.alive.discard(request)
            self.ended[request] = self.now_s
            self.tell(events.RequestEnded(request))

    # ---- what is looked at

    def actions(self, kind: type[Action]) -> list[Action]:
        return [action for _, action in self.done if isinstance(action, kind)]

    def starts(self, model: str | None = None) -> list[Start]:
        return [a for _, a in self.done if isinstance(a, Start) and model in (None, a.key.name)]

    def states(self, model: str | None = None) -> list[State]:
        return [r.state for r in self.brain.replicas() if model in (None, r.service.model.name)]

    def running(self, request: str) -> str | None:
        """The group that it runs on."""
        return self._on.get(request)

    def why(self, request: str) -> Why:
        return self.rejected[request].why

    def check(self) -> None:
        """What holds after every event: each request is in one place, every count is the truth, and memory is promised to
        nobody who is gone."""
        desk, books, fleet = self.brain._desk, self.brain._books, self.brain._fleet
        held = {name for name, r in desk.line.requests.items() if r.stand is Stand.HELD}
        runs = {name: r.group for name, r in desk.line.requests.items() if r.stand is not Stand.HELD}
        shifts = {name: r.to for name, r in desk.line.requests.items() if r.stand is Stand.SHIFTING}
        assert held | runs.keys() == self.alive
        assert runs == self._on
        assert set(runs.values()) <= self._formed
        assert desk.line.waiting == len(held)
        for service in self.brain._services.values():
            names = [name for name in held if desk.line.requests[name].key == service.key]
            assert service.waiting == len(names)
            assert service.waiting_tokens == sum(desk.line.requests[name].room for name in names)
            there = [name for name in service.held if name in held]
            assert sorted(there) == sorted(names), "each waits in its model's line, once"
            assert not names or service.held_wake, "somebody looks after those who wait"
        idle = {group: r for group, r in fleet.replicas.items() if r.state is State.SERVING and r.idle}
        assert fleet._roster.idle.groups() == idle.keys()
        for most in (-1, 0, 1):
            leaving = [r.running(True) for r in idle.values() if r.service.objectives.priority <= most]
            assert fleet._roster.idle.up_to(most).freed_bytes == Listed(leaving).freed_bytes
        for group, replica in fleet.replicas.items():
            assert replica.group == group
            assert replica in replica.service.replicas
            assert replica.used_tokens == sum(desk.line.requests[name].room for name in replica.requests)
            arriving = {name for name, to in shifts.items() if to == group}
            assert replica.arriving == {name: desk.line.requests[name].room for name in arriving}
            assert set(replica.requests) == {name for name, on in runs.items() if on == group} | arriving
            self._check_moving(replica)
            assert replica.state is not State.GONE
            assert (replica.state is State.STOPPING) == (group in self._stopping)
            assert not replica.leaving or replica.state is State.WANTED
            assert replica.turn_of is None or replica.turn_of.state is State.WANTED
        assert set(books.memory._nodes) <= set(fleet.replicas)
        assert set(shifts.values()) <= set(fleet.replicas)
        open_moves = {name for name, steps in self.steps.items() if STEPS[steps[-1]]}
        assert set(fleet.moves.underway.moves) == open_moves
        assert all(self.steps[name][-1] is move.step for name, move in fleet.moves.underway.moves.items())
        for host in self.hosts.values():
            assert sum(host.reserved.values()) <= host.node.device_bytes

    def _check_moving(self, replica: Replica) -> None:
        """Who follows whom is known on both sides, and as long as a move lasts."""
        move = self.brain._fleet.moves.underway.of(replica)
        assert (move is not None) >= (replica.heir_of is not None or bool(replica.heirs) or replica.giving_way)
        assert all(heir.heir_of is replica for heir in replica.heirs)
        assert replica.heir_of is None or replica in replica.heir_of.heirs
        assert not replica.giving_way or replica.state in (State.DRAINING, State.STOPPING)
