"""A router over a cluster in memory, and clients of it, under virtual time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from prometheus_client import generate_latest

from cluster.fake import FakeCluster
from cluster.fake_group import answer
from cluster.virtual_time import run_virtual
from cluster.wire.requests import Sampling, Submit
from schedules.facts import Node
from serving.catalog import ServedModel
from serving.cold_start import Ledger
from serving.errors import RequestError, Unavailable
from serving.metrics import Metrics
from serving.router import Router, RouterLimits
from serving.tickets import Ticket
from tests.cluster.unpublished import VOCABULARY, described, facts
from tests.schedules.worlds import world_node
from tests.told import objectives_of

PROMPT = (7, 8, 9)
START_TIMEOUT_S = 30.0
WANTED = objectives_of(kv_tokens=1024, max_degree=1, keep_alive_s=60.0)
FOREVER_S = 1e9


def served(name: str, opened: int = 1, **more: Any) -> ServedModel:
    """A model that is described and lies nowhere."""
    checkpoint = described(name, **more)
    return ServedModel(checkpoint, facts(checkpoint), None, 512, (), opened)


def said(model: str, tokens: int) -> list[int]:
    """What the model answers to PROMPT, whichever replica it is."""
    return list(answer(model, PROMPT, tokens, VOCABULARY))


@dataclass(eq=False)
class Call:
    """A request that is read: what came of it so far."""

    ticket: Ticket
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    error: RequestError | None = None
    reading: "asyncio.Task[None]" = field(init=False)

    def __post_init__(self) -> None:
        self.reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        try:
            async for each in self.ticket.tokens():
                self.tokens += each.tokens
                self.finish = each.finish
        except RequestError as error:
            self.error = error

    async def until(self, tokens: int) -> None:
        """It has so many tokens."""
        await until(lambda: len(self.tokens) >= tokens)

    async def leave(self) -> None:
        """Its client goes."""
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)


async def until(holds: Callable[[], object], within_s: float = 600.0) -> None:
    """It is so by then; looked at every few virtual milliseconds."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - whoever it is told by, and time is virtual
            await asyncio.sleep(0.005)


@dataclass(eq=False)
class Routed:
    """See the module."""

    router: Router
    cluster: FakeCluster
    metrics: Metrics
    ledger: Ledger
    opened: list[str]
    _names: "count[int]" = field(default_factory=count)

    def submit(self, tokens: int = 8) -> Submit:
        name = f"r{next(self._names)}"
        return Submit(name, PROMPT, len(PROMPT), tokens, (), Sampling(temperature=0.0))

    def admit(self, model: ServedModel, tokens: int = 8, choices: int = 1, within_s: float = FOREVER_S) -> list[Ticket]:
        """A request comes. What the router raises if it may not even wait."""
        now_s = asyncio.get_running_loop().time()
        return self.router.admit(model, [self.submit(tokens) for _ in range(choices)], now_s, now_s + within_s)

    def ask(self, model: ServedModel, tokens: int = 8, within_s: float = FOREVER_S) -> Call:
        """A request comes and is read."""
        (ticket,) = self.admit(model, tokens, within_s=within_s)
        return Call(ticket)

    async def answered(self, model: ServedModel, tokens: int = 8) -> Call:
        """A request comes and is read to its end."""
        call = self.ask(model, tokens)
        await call.reading
        return call

    def states(self, model: str | None = None) -> list[str]:
        return [str(each["state"]) for each in self.router.replicas() if model in (None, each["model"])]

    def groups(self, state: str = "serving") -> list[str]:
        return [str(each["group"]) for each in self.router.replicas() if each["state"] == state]

    def measured(self, line: str) -> float:
        """What is measured under the name and labels of `line`."""
        self.router.measure()
        found = [row.rpartition(" ") for row in generate_latest(self.metrics.registry).decode().splitlines()]
        return next(float(value) for name, _, value in found if name == line)


Opener = Callable[[str], Awaitable[ServedModel]]


@asynccontextmanager
async def routed(
    nodes: Iterable[Node] = (),
    catalog: Iterable[ServedModel] = (),
    kind: type[FakeCluster] = FakeCluster,
    **limits: Any,
) -> AsyncIterator[Routed]:
    """What is in `catalog` can be opened by name; `limits` are those of the router, where they are others than here."""
    bounds = {
        "models": {},
        "policy": "planned",
        "objectives": WANTED,
        "start_timeout_s": START_TIMEOUT_S,
        "max_held_requests": 100,
        "max_held_per_model": 100,
        "consolidate": True,
    } | limits
    metrics, ledger, opened = Metrics(), Ledger(), list[str]()
    names = {model.name: model for model in catalog}

    async def open_model(name: str) -> ServedModel:
        opened.append(name)
        await asyncio.sleep(0.1)
        if name not in names:
            raise Unavailable(f"{name} is away")
        return names[name]

    cluster = kind(tuple(nodes) or (world_node("a"), world_node("b")), listener=lambda event: router.hear(event))
    router = Router(lambda: cluster, RouterLimits(**bounds), metrics, ledger, open_model)
    async with cluster:
        try:
            yield Routed(router, cluster, metrics, ledger, opened)
        finally:
            await router.close()


def played(test: Callable[[Routed], Awaitable[None]], *nodes: Any, **more: Any) -> None:
    """The test under virtual time. At its end no task is left, and no timer that would be called."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with routed(nodes, **more) as now:
            await test(now)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert timers == []

    run_virtual(main())
