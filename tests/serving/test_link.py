"""The front end's link to the cluster: one client, from the first scheduler on."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import pytest

from cluster.errors import ClusterUnreachable
from schedules.events import Event, SchedulerJoined, SchedulerLost
from serving import link as link_module
from serving.link import ClusterLink


class _Client:
    """Takes the place of a ClusterClient: finds no scheduler at first, then hears of one, then that it is gone."""

    made: list["_Client"]

    def __init__(self, _address: str, _tls: Any, listener: Callable[[Event], None]) -> None:
        self._listener = listener
        self.made.append(self)

    async def __aenter__(self) -> Self:
        if len(self.made) == 1:
            raise ClusterUnreachable("not yet")
        self._listener(SchedulerJoined())
        self._listener(SchedulerLost())
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass


async def test_whoever_hears_of_a_scheduler_can_give_orders_and_the_client_outlives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client was there only when all nodes had been heard: what was decided on the first of them had none to go to."""
    monkeypatch.setattr(link_module, "ClusterClient", _Client)
    monkeypatch.setattr(_Client, "made", [], raising=False)
    heard: list[tuple[Event, object]] = []
    over = asyncio.Event()

    def listen(event: Event) -> None:
        heard.append((event, link.client))
        if isinstance(event, SchedulerLost):
            over.set()

    link = ClusterLink("tcp://nowhere", None, listen)
    assert link.client is None
    link.start()
    await asyncio.wait_for(over.wait(), 30.0)
    assert heard == [(SchedulerJoined(), _Client.made[1]), (SchedulerLost(), _Client.made[1])]
    assert link.client is _Client.made[1]
    await link.stop()
    assert link.client is None
