"""Routes each request: to the model's replica, or into the queue of a cold one that is being started.

The rules are `schedules.lifecycle` and `schedules.placement`; this module feeds them what happens and carries out what
they say. Between reading a replica's state and changing it there is no await.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.client import ClusterClient
from cluster.errors import ClusterError, Refused, StageFailed
from cluster.group import Group
from cluster.messages import Phase, Submit, Tokens
from schedules.facts import NoPlacement, Placement
from schedules.lifecycle import Action, Event, Replica, State, handle
from schedules.placement import place
from serving.catalog import ServedModel
from serving.cold_start import ColdStart, Ledger
from serving.errors import BadRequest, Interrupted, Overloaded, Unavailable
from serving.metrics import Metrics

_log = logging.getLogger(__name__)
START_ATTEMPTS = 3
REPLAYS = 3


@dataclass(frozen=True)
class RouterLimits:
    """What the router is allowed; tokens count per replica."""

    degree: int
    kv_tokens: int
    keep_alive_s: float
    start_timeout_s: float
    max_held_requests: int


@dataclass
class _Service:
    """A model's replica, and who waits for it."""

    model: ServedModel
    replica: Replica
    group: Group | None = None
    held: list[asyncio.Future[Group]] = field(default_factory=list)
    active: int = 0
    last_used_s: float = 0.0
    idle_timer: asyncio.TimerHandle | None = None
    began: list[Phase] = field(default_factory=list)
    last_start_s: float = 5.0


class Router:
    """See the module. `cluster` gives the client that is connected now, or None. Use from one event loop."""

    def __init__(
        self, cluster: Callable[[], ClusterClient | None], limits: RouterLimits, metrics: Metrics, ledger: Ledger
    ) -> None:
        self._cluster, self._limits, self._metrics, self._ledger = cluster, limits, metrics, ledger
        self._services: dict[str, _Service] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._recording: set[asyncio.Task[None]] = set()

    def check(self, model: ServedModel, prompt_tokens: int, max_tokens: int) -> None:
        """Raise what can be known before anything is started: no node, queue full, request too long for a replica."""
        if prompt_tokens + max_tokens > self._limits.kv_tokens:
            raise BadRequest(
                f"prompt ({prompt_tokens} tokens) and max_tokens ({max_tokens}) exceed the {self._limits.kv_tokens} "
                "tokens of KV cache that a replica has here (frontend.kv_tokens)"
            )
        service = self._services.get(model.name)
        if service is not None and service.replica.state is State.SERVING:
            return
        client = self._cluster()
        if client is None:
            raise Unavailable("the cluster's scheduler does not answer; the front end keeps trying", retry_after_s=5)
        if not client.view().nodes:
            raise Unavailable("no node is connected, so no model can be started", retry_after_s=5)
        if sum(len(s.held) for s in self._services.values()) >= self._limits.max_held_requests:
            wait_s = max(1, round(service.last_start_s)) if service is not None else 5
            raise Overloaded(
                f"{self._limits.max_held_requests} requests wait for cold models already", retry_after_s=wait_s
            )

    async def generate(self, model: ServedModel, submit: Submit, arrived_s: float) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come, started wherever that is needed and continued where a group is lost.

        Unavailable if the model cannot be started, Interrupted if it cannot be continued. Leaving early cancels.
        """
        done: list[int] = []
        for attempt in range(REPLAYS + 1):
            now = replace(
                submit,
                request=f"{submit.request}.{attempt}",
                tokens=(*submit.tokens, *done),
                max_tokens=submit.max_tokens - len(done),
            )
            service = self._service(model)
            cold = service.replica.state is not State.SERVING
            group = await self._group_for(service, arrived_s)
            try:
                async with aclosing(self._stream(service, group, now, None if done else arrived_s, cold)) as events:
                    async for event in events:
                        done += event.tokens
                        yield event
                return
            except Refused as error:
                raise Unavailable(f"the replica refused the request: {error}") from error
            except StageFailed as error:
                _log.warning("%s: group %s was lost after %d tokens: %s", model.name, group.name, len(done), error)
                self._metrics.replays.labels(model.name).inc()
                reason = str(error)
        raise Interrupted(f"the replica of {model.name} was lost {REPLAYS + 1} times: {reason}")

    def replicas(self) -> list[dict[str, object]]:
        """Every replica that is not cold, for status."""
        return [
            {
                "model": name,
                "group": service.group.name if service.group else None,
                "state": str(service.replica.state),
                "degree": service.group.placement.degree if service.group else None,
                "nodes": [stage.node for stage in service.group.placement.stages] if service.group else [],
                "requests": service.active + len(service.held),
            }
            for name, service in sorted(self._services.items())
            if service.replica.state is not State.COLD
        ]

    def measure(self) -> None:
        """Bring the gauges up to date."""
        services = self._services.values()
        self._metrics.held.set(sum(len(service.held) for service in services))
        self._metrics.running.set(sum(service.active for service in services))
        for state in State:
            self._metrics.replicas.labels(state).set(sum(s.replica.state is state for s in services))
        client = self._cluster()
        self._metrics.nodes.set(len(client.view().nodes) if client is not None else 0)

    async def settle_ledger(self) -> None:
        """Wait until the cold starts that have given their first token are in the ledger."""
        await asyncio.gather(*self._recording, return_exceptions=True)

    async def close(self) -> None:
        """Give up what is being started. Groups end with the client."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for service in self._services.values():
            if service.idle_timer is not None:
                service.idle_timer.cancel()

    # ---- requests

    def _service(self, model: ServedModel) -> _Service:
        service = self._services.get(model.name)
        if service is None:
            service = self._services[model.name] = _Service(model, Replica(State.COLD, time.monotonic()))
        elif service.replica.state is State.COLD:
            service.model = model
        elif service.model.checkpoint.digest != model.checkpoint.digest and not service.active and not service.held:
            service.model = model
            if service.replica.state is State.SERVING:  # a new version was published and nobody uses the old one
                self._feed(service, Event.IDLE)
        return service

    async def _group_for(self, service: _Service, arrived_s: float) -> Group:
        if service.replica.state is State.SERVING:
            self._feed(service, Event.ARRIVED)
            assert service.group is not None
            return service.group
        if service.replica.state is State.COLD:
            service.began = [Phase("receive and tokenise", "front end", arrived_s, time.time())]
        waiter: asyncio.Future[Group] = asyncio.get_running_loop().create_future()
        service.held.append(waiter)
        try:
            self._feed(service, Event.ARRIVED)
            return await waiter
        finally:
            with suppress(ValueError):
                service.held.remove(waiter)

    async def _stream(
        self, service: _Service, group: Group, submit: Submit, arrived_s: float | None, cold: bool
    ) -> AsyncGenerator[Tokens]:
        service.active += 1
        if service.idle_timer is not None:
            service.idle_timer.cancel()
            service.idle_timer = None
        first = True
        try:
            async with aclosing(group.generate(submit)) as events:
                async for event in events:
                    if first and arrived_s is not None:
                        self._note_first(service, group, arrived_s, cold)
                    first = False
                    self._metrics.generated_tokens.labels(service.model.name).inc(len(event.tokens))
                    yield event
        finally:
            service.active -= 1
            service.last_used_s = time.monotonic()
            if not service.active and service.group is group and service.replica.state is State.SERVING:
                loop = asyncio.get_running_loop()
                service.idle_timer = loop.call_later(self._limits.keep_alive_s, self._idle, service)

    def _note_first(self, service: _Service, group: Group, arrived_s: float, cold: bool) -> None:
        ttft_s = time.time() - arrived_s
        self._metrics.ttft.labels(service.model.name, "cold" if cold else "warm").observe(ttft_s)
        if cold and service.began:
            began, service.began = tuple(service.began), []
            service.last_start_s = ttft_s
            recording = self._spawn(self._record(service.model.name, group, arrived_s, ttft_s, began))
            self._recording.add(recording)
            recording.add_done_callback(self._recording.discard)

    async def _record(
        self, model: str, group: Group, arrived_s: float, ttft_s: float, began: tuple[Phase, ...]
    ) -> None:
        client = self._cluster()
        phases = (*began, *(await client.phases(group) if client is not None else ()))
        nodes = tuple(stage.node for stage in group.placement.stages)
        ordered = tuple(sorted(phases, key=lambda phase: phase.start_s))
        self._ledger.add(ColdStart(model, group.name, nodes, arrived_s, ttft_s, ordered))

    # ---- replicas

    def _idle(self, service: _Service) -> None:
        if service.replica.state is State.SERVING and not service.active:
            self._feed(service, Event.IDLE)

    def _feed(self, service: _Service, event: Event, error: Exception | None = None) -> None:
        """Let an event happen to a replica, and begin what follows from it."""
        service.replica, actions = handle(service.replica, event, time.monotonic(), len(service.held))
        for action in actions:
            match action:
                case Action.START:
                    self._spawn(self._start(service))
                case Action.RELEASE:
                    assert service.group is not None
                    for waiter in service.held:
                        if not waiter.done():
                            waiter.set_result(service.group)
                case Action.REJECT:
                    for waiter in service.held:
                        if not waiter.done():
                            waiter.set_exception(error or Unavailable("the model could not be started"))
                case Action.STOP:
                    self._spawn(self._stop(service))
                case Action.HOLD | Action.FORWARD | Action.REPLAY:
                    pass  # the request itself waits, goes on, or comes again: see generate

    async def _start(self, service: _Service) -> None:
        """Place and form a group for the service; a node's refusal is taken as news, and it is decided again."""
        name = service.model.name
        try:
            async with asyncio.timeout(self._limits.start_timeout_s):
                group = await self._form(service)
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._metrics.cold_starts.labels(name, "failed").inc()
            if not isinstance(error, Unavailable | ClusterError | TimeoutError):
                _log.exception("%s could not be started", name)
            text = str(error) or f"it took longer than {self._limits.start_timeout_s:.0f} s"
            self._feed(service, Event.FAILED, Unavailable(f"{name} could not be started: {text}", retry_after_s=5))
            return
        self._metrics.cold_starts.labels(name, "started").inc()
        service.group = group
        service.last_used_s = time.monotonic()
        self._feed(service, Event.STARTED)
        group.watch(lambda: self._lost(service, group))
        if not service.held:
            loop = asyncio.get_running_loop()
            service.idle_timer = loop.call_later(self._limits.keep_alive_s, self._idle, service)

    async def _form(self, service: _Service) -> Group:
        for attempt in range(START_ATTEMPTS):
            client = self._cluster()
            if client is None:
                raise Unavailable("the cluster's scheduler does not answer")
            placement = await self._place(client, service)
            try:
                return await client.form(placement, service.model.checkpoint, self._limits.start_timeout_s)
            except ClusterError as error:
                if attempt == START_ATTEMPTS - 1:
                    raise
                _log.warning("%s was not started (%s); deciding again", service.model.name, error)
        raise AssertionError("unreachable")

    async def _place(self, client: ClusterClient, service: _Service) -> Placement:
        """Where the model shall run; idle replicas of other models make room, the longest idle first."""
        while True:
            started_s = time.time()
            limits = self._limits
            placement = place(service.model.facts, client.view(), limits.degree, limits.kv_tokens)
            service.began.append(Phase("decide", "front end", started_s, time.time()))
            if not isinstance(placement, NoPlacement):
                return placement
            idle = [s for s in self._services.values() if s.replica.state is State.SERVING and not s.active]
            if not idle:
                raise Unavailable(placement.reason)
            victim = min(idle, key=lambda s: s.last_used_s)
            _log.info("%s makes room for %s", victim.model.name, service.model.name)
            group = victim.group
            self._feed(victim, Event.IDLE)
            if group is not None:
                await client.dissolve(group)

    async def _stop(self, service: _Service) -> None:
        group, service.group = service.group, None
        if service.idle_timer is not None:
            service.idle_timer.cancel()
            service.idle_timer = None
        client = self._cluster()
        if group is not None and client is not None:
            await client.dissolve(group)
        self._feed(service, Event.STOPPED)

    def _lost(self, service: _Service, group: Group) -> None:
        if service.group is group and service.replica.state is State.SERVING:
            _log.warning("%s: group %s is lost: %s", service.model.name, group.name, group.cause)
            self._feed(service, Event.LOST)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work in the background failed", exc_info=error)
