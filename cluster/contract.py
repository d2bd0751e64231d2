"""What serving and flows may ask of a cluster, whoever is behind it: real nodes (`cluster.client`), or none (`cluster.fake`).

A cluster tells its listener `schedules.events` in the event loop: NodeReported, NodeLeft, GroupLost, GroupFound,
SchedulerLost and SchedulerJoined. One suite of tests holds for all of them.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.wire.phases import Phase
from cluster.wire.reports import UnitsBrought
from cluster.wire.requests import Submit, Tokens
from schedules.events import Event
from schedules.facts import Placement, View
from schedules.foresight.retention import Retention
from storage_tiers.checkpoint import Checkpoint

Listener = Callable[[Event], None]
Progress = Callable[[int], None]
"""Is told how many of the bytes that are brought are there, whenever it is more."""


@dataclass(frozen=True)
class KvOf:
    """Where the KV cache of a request is to be had: it runs at `group`, where it is called `request`."""

    group: "FormedGroup"
    request: str


class Following(Protocol):
    """A request that another group generates, as the group that shall go on with it takes it in. To be closed, unless it was
    gone on with."""

    copied_tokens: int
    """So many tokens' KV cache came from the other group; what else there is was computed anew."""
    copied_bytes: int

    async def caught_up(self) -> int:
        """Wait until all tokens are taken in that it was told of so far; how many those are, prompt and all. StageFailed if
        the group is lost, Refused if it will not run the request. To be called by one at a time."""
        ...

    def more(self, tokens: Sequence[int]) -> None:
        """The request has these too."""
        ...

    def go_on(self, tokens: Sequence[int] = ()) -> AsyncGenerator[Tokens]:
        """These are the last that it got elsewhere: what follows, as `generate` gives it."""
        ...

    async def close(self) -> None:
        """Give it up, as `generate` does when it is left. Twice is once."""
        ...


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

    def yield_up(self, request: str) -> None:
        """Have the request end after the step that it is in: its stream ends then, with all its tokens and no finish. What is
        over, or unknown, is so already."""
        ...

    async def follow(self, submit: Submit, kv_of: KvOf | None, timeout_s: float) -> Following:
        """Begin to take in a request that another group generates, with the tokens that `submit` has. With `kv_of` its KV
        cache is copied from there; what cannot be is computed anew. StageFailed or Refused as of `generate`."""
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

    async def form(
        self, name: str, placement: Placement, checkpoint: Checkpoint, timeout_s: float, *, behind: bool = False
    ) -> FormedGroup:
        """Form the group that `placement` says; its stages may still wait for their units. One that comes `behind` has them
        all, which make way for all that anybody waits for.

        Refused if a node would not, StageFailed or NodeLost if it could not; nothing is left of it then.
        """
        ...

    async def hurry(self, name: str, nodes: Sequence[str]) -> None:
        """Somebody waits for a group that comes behind others on these nodes, and is not formed yet: what it lacks makes way
        no more."""
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
        self,
        node: str,
        checkpoint: Checkpoint,
        units: Sequence[str],
        tier: str,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> UnitsBrought:
        """Bring units of a model to a tier of a node ("dram" or "ssd"), behind whatever anybody waits for: while a cold start
        on any node waits for units, it stands still. Who cancels it ends it; units that are whole stay.

        ClusterError if it cannot be done, or would have taken the room of what is worth more there; see `retain`.
        """
        ...

    async def evict(self, node: str, checkpoint: Checkpoint) -> None:
        """Drop a model's units from the node's tiers, except those in use."""
        ...

    async def drop(self, node: str, digests: Sequence[str]) -> None:
        """The same, of units whosever they are."""
        ...

    async def retain(self, node: str, dram: Retention, ssd: Retention, for_s: float) -> None:
        """Have a node that needs room in a tier drop what is worth least there, for so long or until it is told otherwise;
        then again what was used longest ago. What is in use stays, and whatever a first token waits for has its room all
        the same. ClusterError if it is more than a node takes."""
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
