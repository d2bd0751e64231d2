"""The groups of a front end, formed, adopted and stopped as it was decided; whatever comes of it is told."""

import asyncio
import logging
from collections.abc import Callable

from cluster.contract import Cluster, FormedGroup
from cluster.errors import ClusterError, NodeLost, Refused
from cluster.tasks import Tasks
from schedules import events
from schedules.actions import Hurry, Start
from serving.catalog import ServedModel
from serving.errors import RequestError, Unavailable
from serving.metrics import Metrics
from serving.recording import Recorder

_log = logging.getLogger(__name__)


class Groups:
    """See the module. `cluster` gives the client, or None before there is one; what is under way is among `tasks`, and ends
    with them. Orders return at once. Use from one event loop."""

    def __init__(
        self,
        cluster: Callable[[], Cluster | None],
        tell: Callable[[events.Event], None],
        tasks: Tasks,
        recorder: Recorder,
        metrics: Metrics,
        adopted_within_s: float,
    ) -> None:
        self._cluster, self._tell, self._tasks = cluster, tell, tasks
        self._recorder, self._metrics, self._adopted_within_s = recorder, metrics, adopted_within_s
        self.up: dict[str, FormedGroup] = {}
        self._forming: dict[str, asyncio.Task[None]] = {}

    def form(self, action: Start, model: ServedModel) -> None:
        """GroupFormed or GroupFailed is told, unless it is stopped before."""
        self._forming[action.group] = self._tasks.spawn(self._form(action, model), f"start of group {action.group}")

    def adopt(self, name: str) -> None:
        """The same, of a group that was found."""
        self._forming[name] = self._tasks.spawn(self._adopt(name), f"adoption of group {name}")

    def hurry(self, action: Hurry) -> None:
        """It comes sooner if its nodes can be told, and comes if not."""
        self._tasks.spawn(self._hurry(action), f"hurry of group {action.group}")

    def stop(self, name: str) -> None:
        """End the group, or its forming. Its streams break at once; GroupStopped is told."""
        self._tasks.spawn(self._stop(name), f"end of group {name}")

    async def _form(self, action: Start, model: ServedModel) -> None:
        group = action.group
        self._recorder.ordered(group)
        try:
            async with asyncio.timeout(action.timeout_s):
                formed = await self._client().form(
                    group, action.placement, model.checkpoint, action.timeout_s, behind=action.behind
                )
        except Exception as error:
            if not isinstance(error, RequestError | ClusterError | TimeoutError):
                _log.exception("%s could not be started", model.name)
            text = str(error) or f"it took longer than {action.timeout_s:.0f} s"
            _log.info("%s was not started (%s)", model.name, text)
            unheard = error.node if isinstance(error, NodeLost) else ""
            self._not_formed(events.GroupFailed(group, text, isinstance(error, Refused), unheard))
            return
        if not action.behind:
            self._metrics.cold_starts.labels(model.name, "started").inc()
        self._joined(formed)

    async def _hurry(self, action: Hurry) -> None:
        try:
            await self._client().hurry(action.group, action.nodes)
        except (RequestError, ClusterError, OSError, TimeoutError) as error:
            _log.warning("group %s still makes way for others: %s", action.group, error)

    async def _adopt(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._adopted_within_s):
                found = await self._client().adopt(name)
        except Exception as error:
            expected = isinstance(error, RequestError | ClusterError | TimeoutError)
            _log.warning("group %s cannot be adopted: %s", name, error, exc_info=None if expected else error)
            self._not_formed(events.GroupFailed(name, str(error) or "it did not answer in time", refused=False))
            return
        self._joined(found)

    def _not_formed(self, event: events.GroupFailed) -> None:
        self._forming.pop(event.group, None)
        self._recorder.over(event.group)
        self._tell(event)

    def _joined(self, group: FormedGroup) -> None:
        self._forming.pop(group.name, None)
        self.up[group.name] = group
        self._tell(events.GroupFormed(group.name))
        if group.lost.is_set():
            self._tell(events.GroupLost(group.name, group.cause))

    async def _stop(self, name: str) -> None:
        forming = self._forming.pop(name, None)
        try:
            if forming is not None:
                forming.cancel()
                await asyncio.gather(forming, return_exceptions=True)
            group = self.up.pop(name, None)  # which it may have become before it was cancelled
            if group is not None:
                group.lose("the group was dissolved")
                await self._client().dissolve(group)
        except (RequestError, ClusterError, OSError, TimeoutError) as error:
            _log.warning("group %s: %s; its lease will end it", name, error)
        finally:
            self._recorder.over(name)
            self._tell(events.GroupStopped(name))

    def _client(self) -> Cluster:
        client = self._cluster()
        if client is None:
            raise Unavailable("the cluster's scheduler does not answer", retry_after_s=5)
        return client
