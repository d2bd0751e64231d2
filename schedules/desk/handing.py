"""Rooms of replicas, as they are handed out to requests and given back."""

from collections.abc import Callable

from schedules.actions import Action, Assign
from schedules.desk.line import Line
from schedules.replicas.fleet import Fleet
from schedules.requests import Request
from schedules.service import Embedding, Replica, Service


class Handing:
    """See the module. `out` takes actions in their order."""

    def __init__(self, line: Line, fleet: Fleet, out: Callable[[Action], None]) -> None:
        self._line, self._fleet, self._out = line, fleet, out

    def serve(self, service: Service, now_s: float) -> None:
        """Those who wait get replicas that serve, as far as they have room, in the order of their turn. Once nobody waits,
        what was only wished for is not, and a version that was replaced goes."""
        self._serve(service, now_s)
        if not service.waiting:
            self._fleet.counting.unwanted(service, now_s)

    def _serve(self, service: Service, now_s: float) -> None:
        while (request := self._line.first(service)) is not None:
            replica = service.taker(request.room)
            if replica is None:
                return
            service.held.popleft()
            self._line.unhold(service, request)
            straight = not replica.requests and request.held_s == now_s
            assigned = self._line.requests[request.name] = request.assigned(replica.group, straight=straight)
            embedding = _with(replica, assigned, now_s)
            self.arrive(replica, assigned)
            replica.embedding = embedding
            self._out(Assign(assigned.name, replica.group, is_cold(request, replica)))

    def arrive(self, to: Replica, request: Request) -> None:
        """It has a room there from now on."""
        to.requests[request.name] = None
        to.used_tokens += request.room
        to.alone = to.embedding = None
        self._fleet.ends.busy(to)

    def free(self, replica: Replica, request: Request) -> None:
        """Its room there is another's."""
        del replica.requests[request.name]
        replica.used_tokens -= request.room

    def unshift(self, request: Request) -> list[Replica]:
        """It has no room any more where it was to go; that replica, if there was one."""
        replica = self._fleet.replicas.get(request.to) if request.to else None
        if replica is None or replica.arriving.pop(request.name, None) is None:
            return []
        self.free(replica, request)
        return [replica]

    def freed(self, replicas: list[Replica], now_s: float) -> None:
        """There is room at these: for those that are to move there, then for who waits; or nothing is left to do."""
        shifting = self._fleet.moves.shifting
        for replica in replicas:
            shifting.released(replica)
        self.serve(replicas[0].service, now_s)
        for replica in replicas:
            self._fleet.ends.rest(replica, now_s)


def _with(replica: Replica, request: Request, now_s: float) -> Embedding | None:
    """What the replica does with one more request, if it makes vectors alone, and is not cold any more."""
    if not request.wants_vector:
        return None
    return replica.embedding if replica.requests or not replica.cold.over else Embedding(now_s)


def is_cold(request: Request, replica: Replica) -> bool:
    """Whether the request had to wait for the replica to start, or was announced to it."""
    return request.cold or (not replica.cold.over and replica.cold.arrived_s == request.arrived_s)
