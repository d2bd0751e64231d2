"""Routes each request: to a replica of its model, or into the queue of a cold one that is being started.

The rules are `schedules.lifecycle`, `schedules.scaling` and a policy of `schedules.placing.policies`; this module feeds
them what happens and carries out what they say. Between reading a replica's state and changing it there is no await.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cluster.client import ClusterClient
from cluster.errors import ClusterError, NoToken, Refused, StageFailed
from cluster.group import Group
from cluster.wire.requests import Submit, Tokens
from schedules.lifecycle import Action, Event, Replica, State, handle
from schedules.objectives import Objectives
from schedules.placing.decision import Running
from schedules.placing.policies import POLICIES
from schedules.scaling import wanted_replicas
from serving.catalog import ServedModel
from serving.cold_start import ColdStart, Ledger
from serving.errors import BadRequest, Interrupted, ModelFailed, Overloaded, Unavailable
from serving.metrics import Metrics
from serving.service import Live, Service, Waiter
from serving.starts import Starts

_log = logging.getLogger(__name__)
REPLAYS = 3
ANNOUNCED_S = 1.0
ALONE_TOKENS = 16
"""A request of at least so many tokens that had its replica for itself tells what a token takes."""


@dataclass(frozen=True)
class RouterLimits:
    """What the router is allowed. `objectives` are those of the models that `models` does not name."""

    policy: str
    objectives: Objectives
    start_timeout_s: float
    max_held_requests: int
    models: Mapping[str, Objectives]


class Router:
    """See the module. `cluster` gives the client that is connected now, or None. Use from one event loop."""

    def __init__(
        self, cluster: Callable[[], ClusterClient | None], limits: RouterLimits, metrics: Metrics, ledger: Ledger
    ) -> None:
        self._cluster, self._limits, self._metrics = cluster, limits, metrics
        self._starts = Starts(cluster, POLICIES[limits.policy], self._running, self._make_room, metrics, ledger)
        self._services: dict[tuple[str, str], Service] = {}
        self._newest: dict[str, Service] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._recording: set[asyncio.Task[None]] = set()

    def objectives(self, model: str) -> Objectives:
        """What is wanted of the model."""
        return self._limits.models.get(model, self._limits.objectives)

    def recall(self, starts: Sequence[ColdStart]) -> None:
        """Learn from cold starts of before, newest first."""
        self._starts.recall(starts)

    def check(self, model: ServedModel, prompt_tokens: int, max_tokens: int) -> None:
        """Raise what can be known before anything is started: no node, queue full, request too long for a replica."""
        kv_tokens = self.objectives(model.name).kv_tokens
        if prompt_tokens + max_tokens > kv_tokens:
            raise BadRequest(
                f"prompt ({prompt_tokens} tokens) and max_tokens ({max_tokens}) exceed the {kv_tokens} "
                "tokens of KV cache that a replica has here (frontend.kv_tokens)"
            )
        service = self._services.get(_key(model))
        if service is not None and service.serving is not None:
            return
        client = self._cluster()
        if client is None:
            raise Unavailable("the cluster's scheduler does not answer; the front end keeps trying", retry_after_s=5)
        if not client.view().nodes:
            raise Unavailable("no node is connected, so no model can be started", retry_after_s=5)
        if self._held() >= self._limits.max_held_requests:
            wait_s = max(1, round(service.last_start_s)) if service is not None else 5
            raise Overloaded(
                f"{self._limits.max_held_requests} requests wait for cold models already", retry_after_s=wait_s
            )

    @contextmanager
    def announced(self, model: ServedModel, prompt_tokens: int, arrived_s: float) -> Iterator[None]:
        """A request of about so many tokens will come, or turn out to be wrong: a model that is cold is started for it.

        For ANNOUNCED_S after the block the replica counts as in use, then as any other that is idle.
        """
        service = self._service(model)
        if service.coming:
            yield
            return
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future(), arrived_s, prompt_tokens, 0, announced=True)
        service.held.append(waiter)
        waiter.ready.add_done_callback(lambda _ready: service.held.remove(waiter))
        live = self._cold(service)
        try:
            self._feed(service, live, Event.ARRIVED)
            yield
        finally:
            if live.start is not None:
                live.start.text_s = time.monotonic() - arrived_s
            loop.call_later(ANNOUNCED_S, self._forget_announced, service, waiter)

    def _forget_announced(self, service: Service, waiter: Waiter) -> None:
        if not waiter.ready.done():
            waiter.ready.cancel()
        elif waiter.ready.exception() is None:
            self._leave(service, waiter.ready.result(), waiter.tokens)

    async def generate(self, model: ServedModel, submit: Submit, arrived_s: float) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come, started wherever that is needed and continued where a group is lost.

        Unavailable if no replica comes to its first token, Interrupted if it cannot be continued after that, ModelFailed if
        the model has no token to give.
        Leaving early cancels.
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
            live, cold = await self._replica(service, now, arrived_s)
            cold = cold or (live.start is not None and live.start.arrived_s == arrived_s)  # it was announced
            try:
                async with aclosing(self._stream(service, live, now, None if done else arrived_s, cold)) as events:
                    async for event in events:
                        done += event.tokens
                        yield event
                return
            except Refused as error:
                raise Unavailable(f"the replica refused the request: {error}") from error
            except NoToken as error:
                _log.error("%s failed a request after %d tokens: %s", model.name, len(done), error)
                raise ModelFailed(f"{model.name} failed: {error}. Its weights or their type may be at fault") from error
            except StageFailed as error:
                name = live.group.name if live.group is not None else "that was"
                _log.warning("%s: group %s was lost after %d tokens: %s", model.name, name, len(done), error)
                self._metrics.replays.labels(model.name).inc()
                reason = str(error)
        if not done:
            raise Unavailable(f"{model.name} could not be started: {reason}", retry_after_s=5)
        raise Interrupted(f"the replica of {model.name} was lost {REPLAYS + 1} times: {reason}")

    def keep_up(self, model: ServedModel) -> None:
        """See to it that the model has as many replicas as it shall at least have."""
        service = self._service(model)
        while len(service.coming) < service.objectives.min_replicas:
            self._feed(service, self._cold(service), Event.ARRIVED)

    def explain(self, model: ServedModel) -> dict[str, Any]:
        """What is wanted of the model, and what would be decided if it were started now."""
        service = self._services.get(_key(model)) or Service(model, self.objectives(model.name))
        return {"objectives": vars(service.objectives), "now": self._starts.decide(service).as_json()}

    def replicas(self) -> list[dict[str, object]]:
        """Every replica that is not cold, for status."""
        return [
            {
                "model": name,
                "group": live.group.name if live.group else None,
                "state": str(live.state),
                "degree": live.group.placement.degree if live.group else None,
                "nodes": [stage.node for stage in live.group.placement.stages] if live.group else [],
                "requests": live.active + (len(service.held) if live is service.replicas[0] else 0),
            }
            for (name, _), service in sorted(self._services.items())
            for live in service.replicas
        ]

    def measure(self) -> None:
        """Bring the gauges up to date."""
        services = self._services.values()
        replicas = [live for service in services for live in service.replicas]
        self._metrics.held.set(self._held())
        self._metrics.running.set(sum(live.active for live in replicas))
        for state in State:
            self._metrics.replicas.labels(state).set(sum(live.state is state for live in replicas))
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
            for live in service.replicas:
                live.wake()

    # ---- requests

    def _service(self, model: ServedModel) -> Service:
        """The service of just these weights: a request ends on the version it was made into tokens for. That of a newer
        version takes the name over, and what runs an older one ends when it is done."""
        service = self._services.get(_key(model))
        if service is None:
            service = self._services[_key(model)] = Service(model, self.objectives(model.name))
        newest = self._newest.setdefault(model.name, service)
        if model.opened > newest.model.opened:
            service.model = model  # of equal weights, but these may lie elsewhere in the store
            self._newest[model.name] = service
            if newest is not service:
                self._retire(newest)
        return service

    def _retire(self, service: Service) -> None:
        """There is a newer version: the replicas of this one get no new requests, and end when they have none."""
        for live in service.in_state(State.SERVING):
            self._feed(service, live, Event.DRAIN)
            if not live.active:
                self._feed(service, live, Event.IDLE)
        self._forget_if_over(service)

    def _forget_if_over(self, service: Service) -> None:
        """A version that was replaced is forgotten once nothing of it runs and nobody waits for it."""
        if self._newest.get(service.model.name) is not service and not service.replicas and not service.held:
            self._services.pop(_key(service.model), None)

    async def _replica(self, service: Service, submit: Submit, arrived_s: float) -> tuple[Live, bool]:
        """A replica that serves, with the request counted as its own, and whether it had to be waited for."""
        prompt_tokens = len(submit.tokens)
        future: asyncio.Future[Live] = asyncio.get_running_loop().create_future()
        waiter = Waiter(future, arrived_s, prompt_tokens, prompt_tokens + submit.max_tokens)
        service.held.append(waiter)
        try:
            self._scale(service)
            live = service.taker(waiter.tokens) if self._held() <= self._limits.max_held_requests else service.serving
            if live is not None:
                self._feed(service, live, Event.ARRIVED)
                live.take(waiter.tokens)
                return live, False
            coming = service.in_state(State.STARTING, State.STOPPING)
            self._feed(service, coming[0] if coming else self._cold(service), Event.ARRIVED)
            return await waiter.ready, True
        except asyncio.CancelledError:
            if waiter.ready.done() and not waiter.ready.cancelled() and waiter.ready.exception() is None:
                self._leave(service, waiter.ready.result(), waiter.tokens)
            raise
        finally:
            service.held.remove(waiter)

    def _hand_out(self, service: Service) -> None:
        """Those who wait get replicas that serve, as far as they have room; the rest waits for one that starts, if any."""
        for waiter in service.held:
            live = service.taker(waiter.tokens)
            if live is not None and not waiter.ready.done():
                live.take(waiter.tokens)
                waiter.ready.set_result(live)

    def _leave(self, service: Service, live: Live, tokens: int) -> None:
        """A request of so many tokens is not the replica's any more."""
        live.active -= 1
        live.tokens -= tokens
        if not live.active:
            self._rest(service, live)
        self._hand_out(service)

    def _held(self) -> int:
        return sum(not waiter.announced for service in self._services.values() for waiter in service.held)

    def _cold(self, service: Service) -> Live:
        live = Live(Replica(State.COLD, time.monotonic()))
        service.replicas.append(live)
        return live

    async def _stream(
        self, service: Service, live: Live, submit: Submit, arrived_s: float | None, cold: bool
    ) -> AsyncGenerator[Tokens]:
        alone, count, first_s, last_s = True, 0, 0.0, 0.0
        try:
            if live.group is None:
                raise StageFailed("it ended before the request began")
            async with aclosing(live.group.generate(submit)) as events:
                async for event in events:
                    last_s = time.monotonic()
                    if not count:
                        first_s = last_s
                        if arrived_s is not None:
                            self._note_first(service, live, arrived_s, cold)
                    count += len(event.tokens)
                    alone = alone and live.active == 1
                    self._metrics.generated_tokens.labels(service.model.name).inc(len(event.tokens))
                    yield event
        finally:
            self._leave(service, live, len(submit.tokens) + submit.max_tokens)
        if alone and count >= ALONE_TOKENS and live.start is not None:
            self._starts.learn_token_time(live.start, (last_s - first_s) / (count - 1))

    def _note_first(self, service: Service, live: Live, arrived_s: float, cold: bool) -> None:
        now_s = time.monotonic()
        self._metrics.ttft.labels(service.model.name, "cold" if cold else "warm").observe(now_s - arrived_s)
        start = live.start
        if start is not None and not start.told:
            start.told = True
            self._starts.over(start)
            if start.arrived_s is not None and cold and live.group is not None:
                service.last_start_s = now_s - start.arrived_s
                recording = self._spawn(
                    self._starts.record(service.model.name, live.group, start, service.last_start_s)
                )
                self._recording.add(recording)
                recording.add_done_callback(self._recording.discard)

    # ---- replicas

    def _scale(self, service: Service) -> None:
        """Start another replica if the present ones have not the memory for all that is asked for."""
        there = service.coming
        if there and wanted_replicas(service.objectives, service.outstanding_tokens) > len(there):
            self._feed(service, self._cold(service), Event.ARRIVED)

    def _rest(self, service: Service, live: Live) -> None:
        """It has nothing to do: it ends after its time to keep alive, or at once if it drains."""
        if live.state is State.DRAINING:
            self._feed(service, live, Event.IDLE)
        elif live.state is State.SERVING:
            loop = asyncio.get_running_loop()
            live.rest(time.monotonic(), loop.call_later(service.objectives.keep_alive_s, self._idle, service, live))

    def _idle(self, service: Service, live: Live) -> None:
        if live.state is not State.SERVING or live.active:
            return
        if len(service.coming) <= service.objectives.min_replicas:
            self._rest(service, live)
        else:
            self._feed(service, live, Event.IDLE)

    def _feed(self, service: Service, live: Live, event: Event, error: Exception | None = None) -> None:
        """Let an event happen to a replica, and begin what follows from it."""
        others = [other for other in service.coming if other is not live]
        live.replica, actions = handle(live.replica, event, time.monotonic(), 0 if others else len(service.held))
        for action in actions:
            match action:
                case Action.START:
                    self._spawn(self._start(service, live))
                case Action.RELEASE:
                    self._hand_out(service)
                case Action.REJECT if others:
                    self._hand_out(service)
                case Action.REJECT:
                    for waiter in service.held:
                        if not waiter.ready.done():
                            waiter.ready.set_exception(error or Unavailable("the model could not be started"))
                case Action.STOP:
                    self._spawn(self._stop(service, live))
                case Action.HOLD | Action.FORWARD | Action.REPLAY:
                    pass  # the request itself waits, goes on, or comes again: see generate
        if live.state is State.COLD:
            service.replicas.remove(live)
            self._forget_if_over(service)

    async def _start(self, service: Service, live: Live) -> None:
        """Form a group for the replica."""
        name = service.model.name
        live.start = start = self._starts.begin(min((w.arrived_s for w in service.held), default=None))
        timeout_s = self._limits.start_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                group = await self._starts.form(service, start, timeout_s)
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._starts.over(start)
            self._metrics.cold_starts.labels(name, "failed").inc()
            if not isinstance(error, Unavailable | ClusterError | TimeoutError):
                _log.exception("%s could not be started", name)
            text = str(error) or f"it took longer than {timeout_s:.0f} s"
            if not service.held:
                _log.warning("%s could not be started: %s", name, text)
            self._feed(
                service, live, Event.FAILED, Unavailable(f"{name} could not be started: {text}", retry_after_s=5)
            )
            return
        self._metrics.cold_starts.labels(name, "started").inc()
        live.group = group
        self._feed(service, live, Event.STARTED)
        if not live.active:
            self._rest(service, live)
        if self._newest[name] is not service:
            self._retire(service)
        group.watch(lambda: self._lost(service, live, group))
        if group.lost.is_set():
            self._lost(service, live, group)

    async def _stop(self, service: Service, live: Live) -> None:
        group, live.group = live.group, None
        live.wake()
        if live.start is not None:
            self._starts.over(live.start)
        client = self._cluster()
        if group is not None and client is not None:
            await client.dissolve(group)
        self._feed(service, live, Event.STOPPED)

    async def _make_room(self, groups: Sequence[str]) -> None:
        """End the idle replicas of these groups; one that has got a request since keeps its place."""
        client, leaving = self._cluster(), list[Group]()
        for service in self._services.values():
            for live in service.in_state(State.SERVING):
                if live.group is not None and live.group.name in groups and not live.active:
                    _log.info("%s makes room", service.model.name)
                    leaving.append(live.group)
                    self._feed(service, live, Event.IDLE)
        if client is not None:
            await asyncio.gather(*(client.dissolve(group) for group in leaving))

    def _running(self) -> list[Running]:
        return [running for service in self._services.values() for running in service.running()]

    def _lost(self, service: Service, live: Live, group: Group) -> None:
        if live.group is group and live.state in (State.SERVING, State.DRAINING):
            _log.warning("%s: group %s is lost: %s", service.model.name, group.name, group.cause)
            self._feed(service, live, Event.LOST)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work in the background failed", exc_info=error)


def _key(model: ServedModel) -> tuple[str, str]:
    """What a service is known by: the weights that it serves, and whose they are."""
    return model.name, model.checkpoint.digest
