"""Orders straight to a node: who is let in, what an answer is, and what becomes of an order whose giver leaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cluster.errors import NodeLost, ProtocolError, Refused, StageFailed
from cluster.node.order_door import OrderDoor
from cluster.node_lines import NodeLines, Place
from cluster.wire.orders import Dissolve
from cluster.wire.reports import Done, NotDone, Renewed

_WAIT_S = 30.0


@asynccontextmanager
async def _node(carry_out: Callable[[object], Awaitable[object]]) -> AsyncIterator[tuple[OrderDoor, Place, NodeLines]]:
    """A door, where it is, and connections to it."""
    door, lines = OrderDoor(carry_out), NodeLines(None)
    await door.open("127.0.0.1")
    try:
        yield door, Place("127.0.0.1", door.port, door.secret), lines
    finally:
        lines.close()
        door.close()


async def _echo(order: object) -> object:
    return order


async def test_orders_go_over_one_connection_after_the_other_and_over_several_at_once() -> None:
    opened = 0
    async with _node(_echo) as (_door, place, lines):
        real = lines._open

        async def counted(place: Place) -> object:
            nonlocal opened
            opened += 1
            return await real(place)

        lines._open = counted  # type: ignore[method-assign, assignment]
        for _ in range(5):
            assert await lines.ask(place, Dissolve("g")) == Dissolve("g")
        assert opened == 1
        orders = [Dissolve(f"g{n}") for n in range(4)]
        assert await asyncio.gather(*(lines.ask(place, order) for order in orders)) == orders
        assert opened == 4


async def test_who_does_not_know_the_secret_gives_no_order() -> None:
    heard: list[object] = []

    async def hear(order: object) -> object:
        heard.append(order)
        return Done()

    async with _node(hear) as (_door, place, lines):
        with pytest.raises(OSError):
            await lines.ask(Place(place.host, place.port, "a guess"), Dissolve("g"))
    assert heard == []


async def test_an_order_whose_giver_leaves_is_given_up() -> None:
    """Handlers went on when nobody waited for them any more: a stage that was ordered so stood until its lease ended."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def for_ever(_order: object) -> object:
        begun.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with _node(for_ever) as (_door, place, lines):
        asking = asyncio.ensure_future(lines.ask(place, Dissolve("g")))
        await asyncio.wait_for(begun.wait(), _WAIT_S)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), _WAIT_S)


async def test_a_node_that_closes_its_door_is_gone_at_once() -> None:
    """With orders that are under way, and also for who has a connection already."""
    begun = asyncio.Event()

    async def hang_the_second(order: object) -> object:
        if order == Dissolve("second"):
            begun.set()
            await asyncio.get_running_loop().create_future()
        return Done()

    async with _node(hang_the_second) as (door, place, lines):
        await lines.ask(place, Dissolve("first"))
        asking = asyncio.ensure_future(lines.order("n", place, Dissolve("second"), Done, _WAIT_S))
        await asyncio.wait_for(begun.wait(), _WAIT_S)
        door.close()
        with pytest.raises(NodeLost, match="node n is gone"):
            await asking
        with pytest.raises(ConnectionRefusedError):
            await lines.ask(place, Dissolve("third"))


async def test_an_order_that_is_answered_after_the_lines_were_closed_leaves_no_connection() -> None:
    begun, may = asyncio.Event(), asyncio.Event()

    async def once_it_may(_order: object) -> object:
        begun.set()
        await may.wait()
        return Done()

    async with _node(once_it_may) as (_door, place, lines):
        asking = asyncio.ensure_future(lines.ask(place, Dissolve("g")))
        await asyncio.wait_for(begun.wait(), _WAIT_S)
        lines.close()
        may.set()
        assert await asking == Done()
        assert lines._idle == []


async def test_what_a_node_does_not_do_is_raised() -> None:
    answers = iter([NotDone("no room", refused=True), NotDone("it broke", refused=False), Renewed(())])

    async def answer(_order: object) -> object:
        return next(answers)

    async with _node(answer) as (_door, place, lines):
        for error, text in ((Refused, "no room"), (StageFailed, "it broke"), (ProtocolError, "answered Dissolve with")):
            with pytest.raises(error, match=text):
                await lines.order("n", place, Dissolve("g"), Done, _WAIT_S)


async def test_a_node_that_does_not_answer_in_time_is_lost() -> None:
    async def for_ever(_order: object) -> object:
        return await asyncio.get_running_loop().create_future()

    async with _node(for_ever) as (_door, place, lines):
        with pytest.raises(NodeLost, match="did not answer Dissolve"):
            await lines.order("n", place, Dissolve("g"), Done, 0.1)
