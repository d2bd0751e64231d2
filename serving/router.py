"""Carries out what the brain says: every request, replica and node of a front end, and no decision of its own.

The rules are `schedules.brain`; this module tells it what happens, keeps streams, and does what comes out; at groups that is
`serving.groups`.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.contract import Cluster
from cluster.tasks import Tasks
from cluster.wire.requests import Submit
from schedules import events
from schedules.actions import (
    Action,
    Adopt,
    Assign,
    Decided,
    Failed,
    Hold,
    Hurry,
    MoveAt,
    Record,
    Refuse,
    Reject,
    Replay,
    Shift,
    Start,
    Stop,
    WakeAt,
    Why,
)
from schedules.brain import Brain
from schedules.facts import ModelKey
from schedules.lifecycle import State
from schedules.limits import Limits
from schedules.objectives import Objectives
from schedules.outlook import Outlook
from schedules.placing.decision import Wait
from schedules.placing.policies import POLICIES
from serving.catalog import ServedModel
from serving.cold_start import ColdStart, Ledger, lessons_of
from serving.errors import BadRequest, DeadlineUnreachable, Interrupted, Overloaded, RequestError, Unavailable
from serving.groups import Groups
from serving.metrics import Metrics
from serving.moving.moves import Moves
from serving.moving.notices import Notices
from serving.prewarming.plans import Plans
from serving.recording import Recorder
from serving.tickets import FirstToken, Ticket

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RouterLimits:
    """What the router is allowed. `objectives` are those of the models that `models` does not name."""

    policy: str
    objectives: Objectives
    start_timeout_s: float
    max_held_requests: int
    max_held_per_model: int
    models: Mapping[str, Objectives]
    consolidate: bool


async def _unknown(name: str) -> ServedModel:
    raise Unavailable(f"{name} is not known")


class Router:
    """See the module. `cluster` gives the client, or None before there is one; `open_model` a model by its name. Use from one
    event loop, whose time is the brain's."""

    def __init__(
        self,
        cluster: Callable[[], Cluster | None],
        limits: RouterLimits,
        metrics: Metrics,
        ledger: Ledger,
        open_model: Callable[[str], Awaitable[ServedModel]] = _unknown,
        notices: Notices | None = None,
        on_move: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        self._cluster, self._limits, self._metrics, self._open_model = cluster, limits, metrics, open_model
        self._recorder = Recorder(cluster, metrics, ledger, self.tell)
        self.notices = notices or Notices()
        self.moves = Moves(self.tell, metrics, self.notices, on_move)
        bounds = Limits(limits.start_timeout_s, limits.max_held_requests, limits.max_held_per_model, limits.consolidate)
        self._brain = Brain(POLICIES[limits.policy], bounds, f"g{secrets.token_hex(5)}", 0.0)
        self.plans = Plans(self.tell, self._brain.knows, self.know, open_model, metrics)
        self._models: dict[ModelKey, ServedModel] = {}
        self._tickets: dict[str, Ticket] = {}
        self._tasks = Tasks()
        self._groups = Groups(cluster, self.tell, self._tasks, self._recorder, metrics, limits.start_timeout_s)
        self._timer: asyncio.TimerHandle | None = None
        self._told: deque[events.Event] = deque()
        self._telling = self._closed = False
        self._announcements = 0

    # ---- models

    def objectives(self, model: str) -> Objectives:
        """What is wanted of the model."""
        return self._limits.models.get(model, self._limits.objectives)

    def know(self, model: ServedModel) -> ModelKey:
        """The model can be asked for, and is kept up if it shall be."""
        key = model.facts.key
        known = self._models.get(key)
        if known is None or model.opened > known.opened or not self._brain.knows(key):
            self._models[key] = model  # of equal weights, but these may lie elsewhere in the store
            self.tell(events.ModelKnown(model.facts, self.objectives(model.name), model.opened))
            for other in [k for k in self._models if k.name == key.name and not self._brain.knows(k)]:
                del self._models[other]
        return key

    def recall(self, starts: Sequence[ColdStart]) -> None:
        """Learn from cold starts of before, newest first."""
        self.tell(events.Recalled(lessons_of(starts)))

    # ---- requests

    @contextmanager
    def announced(self, model: ServedModel, prompt_tokens: int, arrived_s: float) -> Iterator[None]:
        """A request of about so many tokens will come, or turn out to be wrong: a model that is cold is started for it."""
        self._announcements += 1
        name, key = f"announced-{self._announcements}", self.know(model)
        self.tell(events.RequestAnnounced(name, key, prompt_tokens, arrived_s))
        try:
            yield
        finally:
            self.tell(events.AnnouncementOver(name))

    def admit(self, model: ServedModel, submits: Sequence[Submit], arrived_s: float, deadline_s: float) -> list[Ticket]:
        """The requests, each to be read and closed. BadRequest, Overloaded or Unavailable if one of them may not even wait;
        then none is admitted."""
        key, tickets = self.know(model), list[Ticket]()
        try:
            for submit in submits:
                ticket = Ticket(model.name, submit, arrived_s, self.tell, self._groups.up.get, self._note_first)
                tickets.append(ticket)
                self._tickets[submit.request] = ticket
                asked, more = (submit.prompt_tokens, submit.max_tokens), len(tickets) > 1
                self.tell(events.RequestArrived(submit.request, key, *asked, arrived_s, deadline_s, more))
                if (error := ticket.rejection()) is not None:
                    raise error
        except BaseException:
            for each in tickets:
                each.close()
            raise
        return tickets

    def _note_first(self, first: FirstToken) -> None:
        taken_s = asyncio.get_running_loop().time() - first.arrived_s
        self._metrics.ttft.labels(first.model, "cold" if first.cold else "warm").observe(taken_s)

    # ---- what others ask

    def knows(self, model: str) -> bool:
        """Whether a model of this name can be asked for."""
        return any(key.name == model and self._brain.knows(key) for key in self._models)

    def requests(self, name: str) -> list[str]:
        """The request of this name; or those of the answer of this id."""
        return [name] if name in self._tickets else [each for each in self._tickets if each.startswith(f"{name}.")]

    def outlook(self, request: str) -> Outlook | None:
        """How it stands with a request now; None if it is over."""
        return self._brain.outlook(request, asyncio.get_running_loop().time())

    def outlook_for(self, model: str, arrived_s: float) -> Outlook | None:
        """How it stands with one that came at `arrived_s` and is not admitted yet; None if its model is not known."""
        return self._brain.outlook_for(model, arrived_s, asyncio.get_running_loop().time())

    def explain(self, model: ServedModel) -> dict[str, Any]:
        """What is wanted of the model, and what would be decided if it were started now."""
        objectives, now_s = self.objectives(model.name), asyncio.get_running_loop().time()
        return {"objectives": vars(objectives), "now": self._brain.explain(model.facts, objectives, now_s).as_json()}

    def replicas(self) -> list[dict[str, object]]:
        """Every replica, for status. Who waits is counted at the first of its model."""
        found: list[dict[str, object]] = []
        for replica in self._brain.replicas():
            service, placed = replica.service, replica.placement is not None
            first = replica is service.replicas[0]
            found.append({
                "model": service.model.name,
                "digest": service.model.digest,
                "group": replica.group if placed else None,
                "state": str(replica.state),
                "degree": len(replica.nodes) if placed else None,
                "nodes": list(replica.nodes),
                "requests": len(replica.requests) + (service.waiting if first else 0),
            })  # fmt: skip
        return found

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self.plans.measure()
        replicas = self._brain.replicas()
        self._metrics.held.set(self._brain.held)
        self._metrics.running.set(sum(len(replica.requests) for replica in replicas))
        for state in set(State) - {State.GONE}:
            self._metrics.replicas.labels(state).set(sum(replica.state is state for replica in replicas))
        client = self._cluster()
        self._metrics.nodes.set(len(client.view().nodes) if client is not None else 0)

    async def settle_ledger(self) -> None:
        """Wait until the cold starts that have given their first token are in the ledger."""
        await self._recorder.settle()

    def let_go(self) -> None:
        """End the answers that would not end by themselves."""
        self.notices.close()
        self.moves.let_go()

    async def close(self) -> None:
        """Give up what is being started. Groups end with the client, and nothing is decided any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.moves.close()
        await self._tasks.close()
        await self._recorder.close()

    # ---- what happens, and what is to be done

    def tell(self, event: events.Event) -> None:
        """It has happened. What follows from it is begun before this returns, unless it follows from something else first."""
        if not self._closed:
            self._told.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._told:
                next_event = self._told.popleft()
                for action in self._brain.handle(next_event, asyncio.get_running_loop().time()):
                    self._try(action)
                if isinstance(next_event, events.RequestEnded | events.RequestLeft):
                    self._tickets.pop(next_event.request, None)
        finally:
            self._telling = False

    def hear(self, event: events.Event) -> None:
        """The cluster tells it, which goes on whatever is made of it. A group that is found needs its model to be known."""
        try:
            self.tell(event)
        except Exception:
            _log.exception("nothing could be made of a %s", type(event).__name__)
        if isinstance(event, events.NodeLeft):
            self.moves.note_node(event.node, "left")
        if isinstance(event, events.GroupFound) and event.key not in self._models and not self._closed:
            self._tasks.spawn(self._open(event.key.name), f"opening of {event.key.name}")

    async def _open(self, name: str) -> None:
        try:
            self.know(await self._open_model(name))
        except RequestError as error:
            _log.warning("a group of %s was found, which is not adopted: %s", name, error)

    def _try(self, action: Action) -> None:
        """Whatever becomes of it, those that were decided with it are carried out."""
        try:
            self._carry_out(action)
        except Exception:
            _log.exception("a %s could not be carried out", type(action).__name__)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Assign():
                self._tickets[action.request].assign(action)
            case Reject():
                self._tickets.pop(action.request).reject(_error_of(action))
            case Replay():
                self._replay(action)
            case Start():
                self._groups.form(action, self._models[action.key])
            case Hurry():
                self._groups.hurry(action)
            case Stop():
                self._groups.stop(action.group)
            case Adopt():
                self._groups.adopt(action.group)
            case Decided():
                self._note_decision(action)
            case Failed():
                self._metrics.cold_starts.labels(action.key.name, "failed").inc()
                _log.warning("%s could not be started: %s", action.key.name, action.reason)
            case Record():
                self._recorder.record(action, self._groups.up[action.group])
            case Shift():
                ticket = self._tickets[action.request]
                ticket.shift(action, self.moves.account(action, ticket.model), self._tasks.spawn)
            case MoveAt():
                self.moves.stands(action)
            case Refuse():
                self.moves.refused(action)
            case WakeAt():
                self._wake_at(action.at_s)
            case Hold():
                pass  # its client is told so by heartbeats

    def _replay(self, action: Replay) -> None:
        ticket = self._tickets[action.request]
        _log.warning(
            "%s: group %s was lost after %d tokens: %s", ticket.model, action.group, action.tokens, action.cause
        )
        self._metrics.replays.labels(ticket.model).inc()
        ticket.wait()

    def _note_decision(self, action: Decided) -> None:
        decision = action.decision
        self._metrics.decisions.labels(decision.policy, decision.kind).inc()
        if isinstance(decision.outcome, Wait):
            _log.info("a start of %s waits: %s", action.key.name, decision.outcome.reason)

    def _wake_at(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at_s, self.tell, events.Ticked())


def _error_of(action: Reject) -> RequestError:
    """What the request's client is told."""
    if action.why is Why.TOO_LONG:
        return BadRequest(action.sentence)
    kinds = {
        Why.OVERLOADED: Overloaded,
        Why.UNAVAILABLE: Unavailable,
        Why.LATE: DeadlineUnreachable,
        Why.INTERRUPTED: Interrupted,
    }
    return kinds[action.why](action.sentence, retry_after_s=action.retry_after_s)
