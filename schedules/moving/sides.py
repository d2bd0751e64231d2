"""Whom moves ask, and tell what is to be: the replicas and the requests."""

from collections.abc import Sequence
from typing import Protocol

from schedules.requests import Request
from schedules.service import Replica, Service


class Shifts(Protocol):
    """The requests, as moves ask of them."""

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        ...

    def shift(self, name: str, to: Replica, *, copy: bool) -> None:
        """It is to go on there, and has a room there from now on."""
        ...

    def serve(self, service: Service, now_s: float) -> None:
        """A replica may have room."""
        ...


class Replicas(Protocol):
    """The replicas, as moves order of them."""

    replicas: dict[str, Replica]

    def add(self, replica: Replica) -> None:
        """It is one of its model's from now on."""
        ...

    def begin(self, replica: Replica, timeout_s: float, now_s: float) -> None:
        """It has its room, and starts."""
        ...

    def abandon(self, replica: Replica, now_s: float) -> None:
        """One that followed another is not wanted any more, whatever it is at; who runs there already ends there."""
        ...

    def make_way(self, replicas: Sequence[Replica], now_s: float) -> None:
        """They get nothing new from now on."""
        ...

    def keep(self, replica: Replica, now_s: float) -> None:
        """It makes way no more, as far as nothing else wants it to go."""
        ...

    def settle(self, replica: Replica, idle_since_s: float | None, now_s: float) -> None:
        """It follows nobody any more."""
        ...

    def rest(self, replica: Replica, now_s: float) -> None:
        """It may have nothing to do."""
        ...

    def stays(self, replica: Replica, now_s: float) -> None:
        """It does not make room for whoever waits for that."""
        ...
