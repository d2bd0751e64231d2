"""What serving and flows may ask of a cluster, whoever is behind it: real nodes (`cluster.client`), or none (`cluster.fake`).

A cluster tells its listener `schedules.events` in the event loop: NodeReported, NodeLeft, GroupLost, GroupFound,
SchedulerLost and SchedulerJoined. One suite of tests holds for all of them.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from cluster.wire.phases import Phase
from cluster.wire.reports import UnitsBrought
from cluster.wire.requests import Submit, Tokens
from schedules.events import Event
from schedules.facts import Placement, View
from storage_tiers.checkpoint import Checkpoint

Listener = Callable[[Event], None]


class FormedGroup(Protocol):
    """A group that takes requests. `phases` are what whoever formed it did for that, and `lost` is set, with `cause`, when it
    can serve no more."""

    name: str
    placement: Placement
    phases: tuple[Phase, ...]
    lost: asyncio.Event
    cause: str

    def generate(self, submit: Submit) -> AsyncGenerator[Tokens]:
        """The request's tokens as they come, the last with its finish. Leaving early cancels the request.

        StageFailed if the group is lost before the end, Refused if it will not run the request, NoToken if the model has
        none to give.
        """
        ...

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` once when the group is lost; others who watch are called too."""
        ...

    def lose(self, cause: str) -> None:
        """The group can serve no more; every stream ends with StageFailed."""
        ...

    async def close(self) -> None:
        """Give it up; whoever formed it dissolves it."""
        ...


class Cluster(Protocol):
    """The one door through which serving and flows reach nodes. Orders raise ClusterError, each within a time."""

    def view(self) -> View:
        """The nodes as last reported."""
        ...

    async def nodes(self, minimum: int = 1, timeout_s: float = 30.0) -> View:
        """The view once it has `minimum` nodes. NodeLost if it has not within the timeout."""
        ...

    async def form(self, name: str, placement: Placement, checkpoint: Checkpoint, timeout_s: float) -> FormedGroup:
        """Form the group that `placement` says; its stages may still wait for their units.

        Refused if a node would not, StageFailed or NodeLost if it could not; nothing is left of it then.
        """
        ...

    async def adopt(self, name: str) -> FormedGroup:
        """Take over a group that was found."""
        ...

    async def dissolve(self, group: FormedGroup) -> None:
        """End the group on all its nodes and forget it."""
        ...

    async def phases(self, group: FormedGroup) -> tuple[Phase, ...]:
        """What its nodes and stages did at its start, by time, in unix seconds."""
        ...

    async def bring(
        self, node: str, checkpoint: Checkpoint, units: Sequence[str], tier: str, timeout_s: float
    ) -> UnitsBrought:
        """Bring units of a model to a tier of a node."""
        ...

    async def evict(self, node: str, checkpoint: Checkpoint) -> None:
        """Drop a model's units from the node's tiers, except those in use."""
        ...

    async def probe(self, node: str, what: Sequence[str], seconds: float, *, keep: bool) -> Mapping[str, float]:
        """Have a node measure quantities by their names in schedules.rates; what cannot be measured there is absent."""
        ...

    async def limit_store(self, node: str, bytes_per_s: float | None) -> None:
        """Tell a node what the store gives to all nodes together; None if it was not seen to limit them."""
        ...

    async def refresh(self) -> View:
        """The view after every node has reported once more; nodes that do not answer stay as they were."""
        ...
