"""The one object that decides: what happens goes in, what is to be done comes out.

It owns the services of all models and the books, and knows no clock, no chance and no way to anybody: whoever owns it says
what time it is, and carries its actions out in their order. The same events at the same times give the same actions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from schedules import events
from schedules.actions import Action, WakeAt
from schedules.desk.desk import Desk
from schedules.facts import Model, ModelKey
from schedules.foresight.plan import Plan
from schedules.learning import lesson
from schedules.ledgers.books import Books
from schedules.limits import Limits
from schedules.moving.wishes import Wishes
from schedules.node_watch import NodeWatch
from schedules.objectives import Objectives
from schedules.outlook import Outlook
from schedules.placing.decision import Decision, Policy
from schedules.requests import Request
from schedules.service import Cold, Replica, Service
from schedules.wakes import Wakes


class Brain:
    """See the module. `prefix` begins the names of groups, which must differ from those of any other brain."""

    def __init__(self, policy: Policy, limits: Limits, prefix: str, now_s: float) -> None:
        self._services: dict[ModelKey, Service] = {}
        self._newest: dict[str, Service] = {}
        self._found: dict[ModelKey, list[events.GroupFound]] = {}
        self._out: list[Action] = []
        self._wakes, self._books = Wakes(), Books(policy, now_s)
        self._desk = Desk(self._services, self._books, self._wakes, limits, prefix, self._do)
        self._fleet, self._moves = self._desk.fleet, self._desk.fleet.moves
        self._wishes = Wishes(
            self._newest, self._services, self._books, self._fleet, self._moves, self._fleet.seats, self._desk, self._do
        )
        self._watch = NodeWatch(self._books, self._wakes, self._fleet, self._wishes.leave)
        self._handlers = self._all_handlers()

    def handle(self, event: events.Event, now_s: float) -> tuple[Action, ...]:
        """What follows from the event. Times never run back from call to call."""
        self._out.clear()
        self._handlers[type(event)](event, now_s)
        self._fleet.look(now_s)
        at_s = self._wakes.news()
        if at_s is not None:
            self._out.append(WakeAt(at_s))
        return tuple(self._out)

    def _do(self, action: Action) -> None:
        self._out.append(action)

    # ---- what others may ask

    def explain(self, model: Model, objectives: Objectives, now_s: float) -> Decision:
        """What would be decided if the model were started now. Changes nothing."""
        service = self._services.get(model.key) or Service(model, objectives, 0)
        starts = self._fleet.starts
        return starts.decide(service, "now", starts.running(service, True), Cold(None, now_s), now_s)

    def knows(self, key: ModelKey) -> bool:
        """Whether anything of this version may run, or be asked for."""
        return key in self._services

    def replicas(self) -> list[Replica]:
        """Every replica, by model and age. To be read, and not kept."""
        return [replica for _, service in sorted(self._services.items()) for replica in service.replicas]

    @property
    def plan(self) -> Plan | None:
        """The plan of prewarming that is in force."""
        return self._fleet.foreseeing.plan

    @property
    def held(self) -> int:
        """Requests that wait, of all models."""
        return self._desk.line.waiting

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        return self._desk.request(name)

    def outlook(self, name: str, now_s: float) -> Outlook | None:
        """How it stands with a request; None if it is over. Changes nothing."""
        request = self._desk.request(name)
        if request is None:
            return None
        return self._desk.outlooks.of(request, self._services[request.key], now_s)

    def outlook_for(self, model: str, arrived_s: float, now_s: float) -> Outlook | None:
        """How it stands with one for the model that came at `arrived_s` and is not told of yet; None if the model is not
        known. Changes nothing."""
        service = self._newest.get(model)
        return None if service is None else self._desk.outlooks.coming(service, 1, now_s, arrived_s)

    # ---- what happens to others than requests

    def _model_known(self, event: events.ModelKnown, now_s: float) -> None:
        key = event.model.key
        service = self._services.get(key)
        if service is None:
            service = self._services[key] = Service(event.model, event.objectives, event.opened)
        service.opened = max(service.opened, event.opened)
        newest = self._newest.setdefault(key.name, service)
        if service is not newest and service.opened > newest.opened:
            self._newest[key.name] = service
            self._fleet.counting.retire(newest, now_s)
            self._desk.line.forget_if_over(newest)
        service.retired = service is not self._newest[key.name]
        for found in self._found.pop(key, ()):
            self._fleet.found(found, service, now_s)
        self._fleet.foreseeing.known(service)
        self._fleet.counting.keep_up(service, now_s)

    def _failed(self, event: events.GroupFailed, now_s: float) -> None:
        if event.unheard:
            self._watch.unheard(event.unheard)
        self._fleet.failed(event, now_s)

    def _stopped(self, event: events.GroupStopped, now_s: float) -> None:
        replica = self._fleet.replicas.get(event.group)
        self._fleet.stopped(event.group, now_s)
        if replica is not None:
            self._desk.line.forget_if_over(replica.service)

    def _found_group(self, event: events.GroupFound, now_s: float) -> None:
        """If its model is not known yet, it is adopted once that is."""
        service = self._services.get(event.key)
        if service is None:
            self._found.setdefault(event.key, []).append(event)
        else:
            self._fleet.found(event, service, now_s)

    def _start_measured(self, event: events.StartMeasured, _now_s: float) -> None:
        chosen = event.decision.chosen
        prediction = chosen.prediction if chosen is not None else None
        if chosen is None or prediction is None or not event.sound or prediction.held_up(event.text_s):
            return
        uncorrected_s = prediction.ttft_s - prediction.parts["correction"]
        self._recalled(
            events.Recalled((
                lesson(
                    chosen.degree, uncorrected_s, event.ttft_s, prediction.slowest, prediction.parts, event.formed_s,
                    event.fetched_s,
                ),
            )),
            _now_s,
        )  # fmt: skip

    def _recalled(self, event: events.Recalled, _now_s: float) -> None:
        for each in event.lessons:
            self._books.learned = self._books.learned.with_lesson(each)
        for hop_s in event.hops_s:
            self._books.learned = self._books.learned.with_hop(hop_s)

    def _node_reported(self, event: events.NodeReported, now_s: float) -> None:
        """One that says itself that it is to be left is, whatever else is left."""
        before = self._books.nodes.node(event.node.name)
        self._watch.reported(event, now_s)
        if event.node.draining and (before is None or not before.draining):
            self._wishes.drained(events.NodeDrained(event.node.name), now_s)

    def _node_undrained(self, event: events.NodeUndrained, now_s: float) -> None:
        self._books.nodes.undrain(event.node)
        self._moves.ways.undrained(event.node, now_s)
        self._fleet.stir()

    def _scheduler_lost(self, _event: events.SchedulerLost, _now_s: float) -> None:
        self._desk.scheduler_away = True

    def _scheduler_joined(self, _event: events.SchedulerJoined, now_s: float) -> None:
        self._desk.scheduler_away = False
        self._fleet.starts.joined(now_s)
        self._fleet.stir()

    def _planned(self, event: events.PrewarmPlanned, now_s: float) -> None:
        self._fleet.foreseeing.begin(event.plan, self._services, now_s)

    def _ticked(self, _event: events.Ticked, now_s: float) -> None:
        for look in self._wakes.due(now_s):
            look(now_s)

    def _all_handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Who is told of which event."""
        desk, fleet, watch, moves, wishes = self._desk, self._fleet, self._watch, self._moves, self._wishes
        return {
            events.ModelKnown: self._model_known,
            events.RequestAnnounced: desk.announced,
            events.AnnouncementOver: desk.announcement_over,
            events.RequestArrived: desk.arrived,
            events.RequestProgressed: desk.runs.progressed,
            events.RequestEnded: desk.runs.ended,
            events.RequestLeft: desk.runs.ended,
            events.RequestRefused: desk.runs.refused,
            events.RequestBroke: desk.runs.broke,
            events.GroupFormed: lambda event, now_s: fleet.formed(event.group, now_s),
            events.GroupFailed: self._failed,
            events.GroupLost: lambda event, now_s: fleet.lost(event.group, event.cause, now_s),
            events.GroupStopped: self._stopped,
            events.GroupFound: self._found_group,
            events.StartMeasured: self._start_measured,
            events.Recalled: self._recalled,
            events.NodeReported: self._node_reported,
            events.NodesHeard: watch.heard,
            events.NodeLeft: lambda event, now_s: watch.left(event.node, now_s),
            events.NodeDrained: wishes.drained,
            events.NodeUndrained: self._node_undrained,
            events.SchedulerLost: self._scheduler_lost,
            events.SchedulerJoined: self._scheduler_joined,
            events.ConsolidationWanted: wishes.consolidation,
            events.MigrationWanted: wishes.migration,
            events.MoveGoOn: lambda event, now_s: moves.go_on(event.move, now_s),
            events.MoveGivenUp: lambda event, now_s: moves.ways.given_up(event.move, event.reason, now_s),
            events.RequestShifted: desk.shifts.shifted,
            events.RequestStayed: desk.shifts.stayed,
            events.PrewarmPlanned: self._planned,
            events.Ticked: self._ticked,
        }
