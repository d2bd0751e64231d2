"""Those who wait for replicas, as the fleet knows them."""

from typing import Protocol

from schedules.requests import Request
from schedules.service import Replica, Service


class Waiters(Protocol):
    """Those who wait for replicas, as the fleet asks of them, and tells them what became of it."""

    def longest(self, service: Service) -> tuple[float, int] | None:
        """When who waits longest arrived, and with how many tokens."""
        ...

    def begun(self, service: Service) -> bool:
        """Whether who waits first has had a replica before, and lost it."""
        ...

    def serve(self, service: Service, now_s: float) -> None:
        """A replica may have room."""
        ...

    def placed(self, service: Service, now_s: float) -> None:
        """It is decided where a replica starts, and hence when."""
        ...

    def fail(self, service: Service, reason: str) -> None:
        """No replica comes for those who wait."""
        ...

    def request(self, name: str) -> Request | None:
        """As it stands; None if it is over."""
        ...

    def shift(self, name: str, to: Replica, *, copy: bool) -> None:
        """It is to go on there, and has a room there from now on."""
        ...

    def replay(self, replica: Replica, cause: str, now_s: float) -> None:
        """The replica's requests must go on elsewhere."""
        ...
