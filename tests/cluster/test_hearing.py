"""What a client makes of silence: nodes that answer when they are asked, that are gone, that hang, that are back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from cluster import hearing as hearing_module
from cluster.hearing import Hearing, Listeners
from cluster.node.order_door import OrderDoor
from cluster.wire.orders import AskReport
from cluster.wire.reports import NodeReport
from schedules.events import Event, NodeLeft, NodeReported
from tests.cluster.reports import ReportingNode

_WAIT_S = 30.0


class _Node(ReportingNode):
    """Answers at a door, unless it hangs."""

    def __init__(self, name: str, life: str = "first") -> None:
        super().__init__(name, life)
        self.door = OrderDoor(self._answer)
        self.hangs = asyncio.Event()

    def full(self) -> NodeReport:
        """What it says to who has never heard of it."""
        return self.answer("", 0)

    def _report(self, since: int, numbers: dict[str, object]) -> NodeReport:
        return super()._report(since, numbers | {"orders_port": self.door.port, "orders_secret": self.door.secret})

    async def _answer(self, order: object) -> object:
        assert isinstance(order, AskReport)
        if self.hangs.is_set():
            await asyncio.get_running_loop().create_future()
        return self.answer(order.life, order.version)


class _Client:
    """A client without a scheduler, and what it tells."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.causes: list[str] = []
        self.hearing = Hearing(
            "tcp://127.0.0.1:9",
            None,
            Listeners(
                self.events.append,
                lambda _node, _stages: None,
                lambda _n, why: self.causes.append(why),
                lambda _m: None,
            ),
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(_WAIT_S):
            while not condition():  # noqa: ASYNC110 - events are kept, and looked at
                await asyncio.sleep(0.01)

    def heard(self) -> int:
        return sum(isinstance(event, NodeReported) for event in self.events)


@asynccontextmanager
async def _looking(*nodes: _Node) -> AsyncIterator[_Client]:
    """A client that knows the nodes, and hears of them only what it asks for."""
    client = _Client()
    for node in nodes:
        await node.door.open("127.0.0.1")
        client.hearing._hear(node.full(), asked=True)
    looking = asyncio.ensure_future(client.hearing._look_always())
    try:
        yield client
    finally:
        looking.cancel()
        await client.hearing.close()
        for node in nodes:
            node.door.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything happens five times as fast."""
    for name in ("LOOK_EVERY_S", "SILENT_S", "ASK_WITHIN_S", "LOST_S"):
        monkeypatch.setattr(hearing_module, name, getattr(hearing_module, name) / 5)


async def test_a_silent_node_is_asked_and_says_what_is_new() -> None:
    node = _Node("n")
    async with _looking(node) as client:
        node.journal.note({"a": "ssd"})
        await client.until(lambda: client.heard() == 3)
        assert [event.gained for event in client.events if isinstance(event, NodeReported)] == [{}, {"a": "ssd"}, {}]


async def test_a_node_at_whose_door_nobody_listens_is_gone_at_once() -> None:
    node = _Node("n")
    async with _looking(node) as client:
        node.door.close()
        await client.until(lambda: client.events[-1] == NodeLeft("n"))
        assert client.causes == ["it takes no orders any more"]
        assert client.hearing.roster.view().nodes == ()


async def test_a_node_that_hangs_is_gone_after_a_while_and_heard_again_when_it_does_not() -> None:
    node = _Node("n")
    async with _looking(node) as client:
        node.hangs.set()
        await client.until(lambda: client.events[-1] == NodeLeft("n"))
        assert "not heard of for" in client.causes[0]
        node.hangs.clear()
        await client.until(lambda: isinstance(client.events[-1], NodeReported))


async def test_a_client_that_was_held_up_itself_loses_nobody() -> None:
    """A front end whose event loop had stood still for ten seconds would have lost every node of the cluster."""
    node = _Node("n")
    async with _looking(node) as client:
        client.hearing.roster.known["n"].heard_s -= 100.0
        await client.until(lambda: client.heard() == 2)
        assert client.causes == []


async def test_a_node_that_was_started_again_is_another_one() -> None:
    """What ran there before is gone, whatever name and place it has now."""
    node = _Node("n", "old")
    node.journal.note({"a": "dram"})
    async with _looking(node) as client:
        node.life, node.journal = "new", type(node.journal)()
        client.hearing._hear(node.tell(), asked=False)
        await client.until(lambda: NodeLeft("n") in client.events)
        await client.until(lambda: isinstance(client.events[-1], NodeReported))
        left = client.events.index(NodeLeft("n"))
        after = client.events[left + 1]
        assert isinstance(after, NodeReported)
        assert after.node.units == {}
        assert client.causes == ["it was started again"]


async def test_a_report_with_a_gap_is_made_good_by_asking() -> None:
    node = _Node("n")
    async with _looking(node) as client:
        for units in ({"a": "ssd"}, {"a": "ssd", "b": "ssd"}):
            node.journal.note(units)
            report = node.tell()
        client.hearing._hear(report, asked=False)
        await client.until(lambda: client.hearing.roster.known["n"].node.units == {"a": "ssd", "b": "ssd"})
