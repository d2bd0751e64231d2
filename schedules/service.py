"""A model as the brain knows it: its replicas, who waits for one, and what it is wanted to be."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp
from typing import NamedTuple

from schedules.estimates import Speeds
from schedules.facts import Model, ModelKey, Placement
from schedules.lifecycle import State, Turn, after
from schedules.load import LEFT, Load
from schedules.objectives import Objectives
from schedules.outlook import Expected, expected
from schedules.placing.decision import Decision, Running
from schedules.scaling import busy_replicas

FIRST_GUESS_S = 5.0
"""What a start is said to take before any was seen."""
COMING = (State.WANTED, State.STARTING, State.SERVING)
"""A replica serves or will."""
CLEARED_OVER_S = 10.0
"""The rate at which a model's requests end is reckoned over about so long."""


@dataclass(frozen=True)
class Announced:
    """A request that will come, or turn out to be wrong."""

    request: str
    prompt_tokens: int
    arrived_s: float


@dataclass(eq=False)
class Cold:
    """A replica's start: when the request came that it is for, None if it is for none; when it was wanted, and when and how
    it was decided; `hop_s` that the decision took a hop for; `text_s` how long after its arrival the request's tokens were
    known; and whether it has given its first token.
    """

    arrived_s: float | None
    wanted_s: float
    decided_s: float = 0.0
    decision: Decision | None = None
    hop_s: float = 0.0
    text_s: float = 0.0
    over: bool = False

    @property
    def expected(self) -> Expected | None:
        """When its first token is predicted; None if it is not, or was there already."""
        chosen = self.decision.chosen if self.decision is not None and not self.over else None
        if chosen is None or chosen.prediction is None:
            return None
        return expected(self.decided_s if self.arrived_s is None else self.arrived_s, chosen.prediction)


@dataclass(eq=False)
class Alone:
    """A request that has its replica for itself, and what its tokens took so far."""

    request: str
    first_s: float
    last_s: float
    tokens: int


@dataclass(eq=False)
class Embedding:
    """A time in which a replica makes vectors and nothing else: how many it has made, of how many tokens."""

    since_s: float
    vectors: int = 0
    tokens: int = 0


@dataclass(eq=False)
class Replica:
    """`group` is what it runs as, another one with each placement; `used_tokens` the rooms of its `requests`.

    One that is WANTED waits for `leaving` groups to end if it has a `placement`, else to be decided, not before `until_s`;
    `reason` says why it was not. At `turn_s` it is decided again so that others may make room for it; it is `stuck` if
    nobody will. One that is DRAINING
    makes room for `turn_of`, if that is not None.

    While a move lasts one that makes way has `heirs`, each of which is `heir_of` it; from when its requests go over it is
    `giving_way`, and only then they count as its model's. Those of its requests that are `arriving` run elsewhere still, and
    have so many tokens of room. One that started `behind` others waited for all of its units, and one that follows `in_place`
    has what the other reserved on its node. It is not to move again before `stay_until_s`. It is `watched` if it is looked at
    whether it should be another. A vector comes out of it `late_s` later in the mean than its stages take for it, or sooner;
    None if that was not seen yet.
    """

    group: str
    service: "Service"
    since_s: float
    cold: Cold
    state: State = State.WANTED
    placement: Placement | None = None
    attempts: int = 0
    requests: dict[str, None] = field(default_factory=dict)
    used_tokens: int = 0
    idle_since_s: float | None = None
    idle_wake: bool = False
    alone: Alone | None = None
    embedding: Embedding | None = None
    late_s: float | None = None
    leaving: set[str] = field(default_factory=set)
    until_s: float = 0.0
    reason: str = ""
    turn_s: float = 0.0
    stuck: bool = False
    turn_of: "Replica | None" = None
    heirs: list["Replica"] = field(default_factory=list)
    heir_of: "Replica | None" = None
    giving_way: bool = False
    arriving: dict[str, int] = field(default_factory=dict)
    behind: bool = False
    in_place: bool = False
    stay_until_s: float = 0.0
    watched: bool = False
    _running: tuple[tuple[object, ...], Running] | None = None

    def let(self, turn: Turn, now_s: float) -> None:
        """It happens to the replica; IllegalTurn if it cannot."""
        state = after(self.state, turn)
        if self.state is State.SERVING:
            self.service.served_s = now_s
        if state is not self.state:
            self.state, self.since_s = state, now_s

    @property
    def reserved_bytes(self) -> Mapping[str, int]:
        """What it reserves where, by node."""
        return self.placement.reserved_bytes if self.placement is not None else {}

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.placement.nodes if self.placement is not None else ()

    @property
    def idle(self) -> bool:
        """Whether it serves nobody, and nobody is about to come, nor anything of one that it follows."""
        return not self.requests and not self.service.announced and self.heir_of is None

    @property
    def ahead_of_time(self) -> bool:
        """Whether it follows another that serves as if it were not there."""
        return self.heir_of is not None and not self.heir_of.giving_way

    def may_move(self, now_s: float) -> bool:
        """Whether it may go on elsewhere if that is of use to others."""
        at_rest = not self.heirs and self.heir_of is None and self.turn_of is None and not self.service.retired
        return at_rest and self.state is State.SERVING and now_s >= self.stay_until_s

    def running(self, may_stop: bool, may_move: bool = False) -> Running:
        """As decisions see it; made anew when it is another."""
        worth, kept = self.service.worth, self.service.is_kept
        as_it_is = (may_stop, may_move, self.idle_since_s, self.used_tokens, self.group, self.placement, worth, kept)
        made = self._running
        if made is None or made[0] != as_it_is:
            running = Running(
                self.service.model, self.group, self.reserved_bytes, self.idle_since_s, self.used_tokens,
                self.service.objectives.priority, may_stop, may_move, worth, kept,
            )  # fmt: skip
            made = self._running = as_it_is, running
        return made[1]


@dataclass(eq=False)
class Clearing:
    """How fast rooms become free as requests end."""

    first_s: float | None = None
    last_s: float = 0.0
    recent_tokens: float = 0.0

    def add(self, room: int, now_s: float) -> None:
        """A request with such a room is over."""
        self.first_s = now_s if self.first_s is None else self.first_s
        self.recent_tokens = self.recent_tokens * exp((self.last_s - now_s) / CLEARED_OVER_S) + room
        self.last_s = now_s

    def takes_s(self, tokens: int, now_s: float) -> float | None:
        """Until so many more tokens of rooms are free; None if nothing is known of it."""
        if self.first_s is None:
            return None
        recent = self.recent_tokens * exp((self.last_s - now_s) / CLEARED_OVER_S)
        over_s = min(CLEARED_OVER_S, max(now_s - self.first_s, 0.1))
        return tokens * over_s / recent if recent >= 1.0 else None


class Demand(NamedTuple):
    """Of a model: how many of its replicas are `coming`, how many requests wait or run, and the rooms of those that count,
    in tokens: of all but such as run at replicas that end without heirs. `whole` is a placement of one stage that serves,
    None if there is none, or any replica makes way for heirs."""

    coming: int
    requests: int
    room_tokens: int
    whole: Placement | None


class Foreseen(NamedTuple):
    """What a plan of prewarming says of a model: it shall have at least so many `replicas`, which save `saved_s` seconds of
    cold starts; one that has nothing to do is worth `worth` of them."""

    replicas: int = 0
    saved_s: float = 0.0
    worth: float = 0.0


NOTHING_FORESEEN = Foreseen()


@dataclass(eq=False)
class Service:
    """One version of a model. `held` are names of requests in the order of their turn, some of which may be over; `waiting`
    counts those that are not, `waiting_tokens` their rooms. The last replica that served ceased to at `served_s`.
    Its last cold start took `last_start_s` from its decision, and `last_ttft_s` from its arrival, to its first token. Until
    `back_until_s` those are thought to come back who were told when to. `load` is what was asked of it in answers, `vectors`
    in vectors."""

    model: Model
    objectives: Objectives
    opened: int
    retired: bool = False
    replicas: list[Replica] = field(default_factory=list)
    held: deque[str] = field(default_factory=deque)
    waiting: int = 0
    waiting_tokens: int = 0
    announced: dict[str, Announced] = field(default_factory=dict)
    last_start_s: float = FIRST_GUESS_S
    last_ttft_s: float = FIRST_GUESS_S
    served_s: float = 0.0
    held_wake: bool = False
    keep_up_wake: bool = False
    back_until_s: float = 0.0
    clearing: Clearing = field(default_factory=Clearing)
    load: Load = field(default_factory=Load)
    vectors: Load = field(default_factory=Load)
    foreseen: Foreseen = NOTHING_FORESEEN

    @property
    def key(self) -> ModelKey:
        return self.model.key

    def in_state(self, *states: State) -> list[Replica]:
        return [replica for replica in self.replicas if replica.state in states]

    @property
    def least_replicas(self) -> int:
        """It shall have at least so many, whether or not anybody asks for it."""
        if self.retired:
            return 0
        wanted = self.objectives
        return min(max(wanted.min_replicas, self.foreseen.replicas), wanted.max_replicas)

    @property
    def is_kept(self) -> bool:
        """Whether it has no more replicas than a plan keeps, so that they go last."""
        return self.foreseen.replicas > 0 and len(self.coming) <= self.foreseen.replicas

    @property
    def worth(self) -> float:
        """Of one of its replicas that has nothing to do, in expected seconds of cold starts."""
        return self.foreseen.worth

    @property
    def serves(self) -> bool:
        """Whether any of its replicas does."""
        return State.SERVING in [replica.state for replica in self.replicas]

    @property
    def coming(self) -> list[Replica]:
        """The replicas that serve or will, but for those that follow others as long as these serve."""
        return [replica for replica in self.replicas if replica.state in COMING and not replica.ahead_of_time]

    @property
    def expected(self) -> Expected | None:
        """When the first token of whoever waits is predicted: that of the earliest start. None while a replica is up that has
        given tokens, or is adopted, and if nothing is predicted."""
        coming = self.coming
        if any(replica.cold.over for replica in coming):
            return None
        placed = [replica.cold.expected for replica in coming if replica.placement is not None]
        return min([each for each in placed if each is not None], default=None)

    def demand(self) -> Demand:
        """What is asked for now, and what is there for it."""
        coming, requests, room_tokens = 0, self.waiting, self.waiting_tokens
        whole, heirs = None, False
        for replica in self.replicas:
            placement = replica.placement
            if (
                whole is None
                and replica.state is State.SERVING
                and placement is not None
                and len(placement.stages) == 1
            ):
                whole = placement
            heirs = heirs or bool(replica.heirs)
            requests += len(replica.requests) - len(replica.arriving)
            if replica.state in COMING and not replica.ahead_of_time:
                coming += 1
            elif not replica.giving_way:
                continue
            room_tokens += replica.used_tokens
            if replica.arriving:
                room_tokens -= sum(replica.arriving.values())
        return Demand(coming, requests, room_tokens, None if heirs else whole)

    def busy_replicas(self, speeds: Speeds, demand: Demand, now_s: float) -> int:
        """How many whole replicas on such nodes what comes, and what is there, keeps busy."""
        requests = demand.requests
        room = demand.room_tokens // requests if requests else 1
        answers_per_s, vectors_per_s = self.load.per_s(now_s), self.vectors.per_s(now_s)
        answer_tokens, vector_tokens = self.load.mean_tokens or LEFT * room, self.vectors.mean_tokens or room
        # of those that are there as many are thought to want vectors as of those that came of late
        vectors = requests * vectors_per_s / (answers_per_s + vectors_per_s) if vectors_per_s else 0.0
        return busy_replicas(
            self.objectives, self.model.size_bytes, speeds, answers_per_s, (requests - vectors) * answer_tokens,
            answer_tokens, room, vectors_per_s * vector_tokens, vectors * vector_tokens,
        )  # fmt: skip

    def taker(self, room: int) -> Replica | None:
        """The replica that gets a request with such a room now, the one with least to do; None if it has to wait.

        Where no other replica is coming one request may wait at a replica that is full, so that its room is taken as soon
        as it is free.
        """
        best, others = None, False
        for replica in self.replicas:
            if replica.state is State.SERVING:
                if best is None or replica.used_tokens < best.used_tokens:
                    best = replica
            elif replica.state is not State.DRAINING and replica.state is not State.STOPPING:
                others = others or not replica.ahead_of_time
        if best is None or best.used_tokens + room <= self.objectives.kv_tokens:
            return best
        return None if others or best.used_tokens > self.objectives.kv_tokens else best
