"""How it stands with requests that wait for their first tokens. Changes nothing but what it remembers of what it saw."""

from collections.abc import Mapping
from operator import is_

from schedules.desk.line import Line
from schedules.estimates import token_s
from schedules.facts import Placement
from schedules.ledgers.books import Books
from schedules.lifecycle import State
from schedules.outlook import Doing, Outlook
from schedules.placing.decision import IN_DRAM
from schedules.replicas.fleet import Fleet
from schedules.requests import EMBEDDED, PROMPTS_ALONE, Request, Stand
from schedules.service import Replica, Service

MOST_SEEN = 256
"""Starts whose bytes are remembered."""
_Seen = tuple[Placement, tuple[Mapping[str, str] | None, ...], tuple[int, int]]


class Outlooks:
    """See the module. What of a start's bytes is there is looked up once for all who wait for it, until a node says
    something else of its units."""

    def __init__(self, line: Line, fleet: Fleet, books: Books) -> None:
        self._line, self._fleet, self._books = line, fleet, books
        self._seen: dict[str, _Seen] = {}

    def of(self, request: Request, service: Service, now_s: float) -> Outlook:
        """Of one that waits, or runs."""
        if request.stand is Stand.HELD:
            return self.coming(service, request.room, now_s, request.arrived_s)
        replica = self._fleet.replicas[request.group]
        if request.stand is Stand.SHIFTING:
            return Outlook(Doing.SHIFTING, degree=len(replica.nodes))
        if replica.cold.over or request.generated:
            return Outlook(Doing.ANSWERING, degree=len(replica.nodes), first_s=self._warm_s(replica, request))
        return self._starting(replica, request.arrived_s)

    def coming(self, service: Service, room: int, now_s: float, arrived_s: float | None = None) -> Outlook:
        """Of one that comes now, or that came at `arrived_s` and waits, with such a room."""
        waiting = service.waiting
        starting = [r for r in service.coming if not r.cold.over and r.placement is not None]
        if service.serves and not any(r.state is State.SERVING and not r.cold.over for r in service.replicas):
            taker = service.taker(room) if not waiting else None
            if taker is not None:
                return Outlook(Doing.ANSWERING, degree=len(taker.nodes))
            waits_s = service.clearing.takes_s(max(service.waiting_tokens, room), now_s)
            soonest = min([r.cold.expected.mean_s for r in starting if r.cold.expected is not None], default=None)
            known = [each for each in (None if waits_s is None else now_s + waits_s, soonest) if each is not None]
            first_s = min(known, default=None)
            return Outlook(Doing.QUEUED, degree=self._degree(service), waiting=waiting, first_s=first_s)
        if starting:
            return self._starting(min(starting, key=_soonest), arrived_s)
        why = next((replica.reason for replica in service.replicas if replica.reason), "")
        return Outlook(Doing.ROOM, True, self._joins(service.coming, arrived_s), waiting=waiting, why=why)

    def _starting(self, replica: Replica, arrived_s: float | None) -> Outlook:
        placement, expected = replica.placement, replica.cold.expected
        assert placement is not None
        there_bytes, all_bytes = self._fetched(replica, placement)
        if replica.state is State.WANTED:
            doing = Doing.ROOM
        elif replica.state is State.STARTING:
            doing = Doing.FORMING
        else:
            doing = Doing.FETCHING if there_bytes < all_bytes else Doing.COMPUTING
        return Outlook(
            doing, True, self._joins([replica], arrived_s), len(placement.stages), there_bytes, all_bytes,
            replica.service.waiting, None if expected is None else expected.mean_s, _leaving(replica),
        )  # fmt: skip

    def _joins(self, replicas: list[Replica], arrived_s: float | None) -> bool:
        """Whether these were begun for others, or for nobody."""
        return bool(replicas) and all(replica.cold.arrived_s != arrived_s for replica in replicas)

    def _degree(self, service: Service) -> int | None:
        serving = service.in_state(State.SERVING)
        return len(serving[0].nodes) if serving else None

    def _warm_s(self, replica: Replica, request: Request) -> float | None:
        """When the first token of one is predicted that went straight to a replica that had nothing else to do. What came
        with it is computed with it, as far as that goes into one step."""
        stages = self._books.stages(replica.placement) if request.straight and not request.generated else None
        if stages is None:
            return None
        asked = [self._line.requests[name] for name in replica.requests]
        tokens = sum([each.prompt_tokens for each in asked if each.arrived_s == request.arrived_s])
        most = EMBEDDED if request.wants_vector else PROMPTS_ALONE
        first_step = min(tokens, max(most, request.prompt_tokens))
        return request.held_s + token_s(stages, self._books.learned.corrections.hop_s, first_step)

    def _fetched(self, replica: Replica, placement: Placement) -> tuple[int, int]:
        """How many of the bytes that the first token waits for are in their nodes' memory, and how many there are."""
        nodes = [self._books.nodes.node(stage.node) for stage in placement.stages]
        units = tuple([None if node is None else node.units for node in nodes])
        seen = self._seen.get(replica.group)
        if seen is not None and seen[0] is placement and all(map(is_, units, seen[1])):
            return seen[2]
        known = {unit.name: unit for unit in replica.service.model.units}
        there_bytes, all_bytes = 0, 0
        for stage, held in zip(placement.stages, units, strict=True):
            for unit in [known[name] for name in stage.units if name not in stage.later]:
                all_bytes += unit.size_bytes
                there_bytes += unit.size_bytes if held is not None and held.get(unit.digest) == IN_DRAM else 0
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen[replica.group] = placement, units, (there_bytes, all_bytes)
        return there_bytes, all_bytes


def _soonest(replica: Replica) -> tuple[bool, float]:
    expected = replica.cold.expected
    return replica.state is State.WANTED, float("inf") if expected is None else expected.mean_s


def _leaving(replica: Replica) -> str:
    """What it waits for before it can start, if anything."""
    return f"{len(replica.leaving)} other replica(s) make room" if replica.leaving else ""
