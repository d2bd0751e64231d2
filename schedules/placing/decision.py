"""What was asked and what was decided, with everything that was considered: values for the router, people and history."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schedules.facts import Model, NoPlacement, Placement, View
from schedules.ledgers.links import Links
from schedules.ledgers.memory import Memory
from schedules.ledgers.shares import Transfer
from schedules.objectives import Objectives


@dataclass(frozen=True)
class Running:
    """A replica that is up: what it has reserved where (bytes by node), and what stopping or moving it would mean.

    `tokens` are those of its requests so far, all together; `idle_since_s` is None while it has requests. `may_stop` if it
    may be ended for the model that is asked about: of several one that is to be `kept` goes last, the one that is least
    `worth` its room first (in seconds of cold starts that it is expected to save), of equals the longest idle; `may_move` if
    it may go on elsewhere.
    """

    model: Model
    group: str
    reserved_bytes: Mapping[str, int]
    idle_since_s: float | None
    tokens: int = 0
    priority: int = 0
    may_stop: bool = False
    may_move: bool = True
    worth: float = 0.0
    kept: bool = False


class Leaving(Protocol):
    """Replicas that may make room."""

    @property
    def freed_bytes(self) -> Mapping[str, int]:
        """What each node would have more if all of them went; nodes without any are absent."""
        ...

    def there(self, node: str) -> Sequence[Running]:
        """Those that have something reserved on the node."""
        ...

    def by_worth(self) -> "Sequence[Leaving]":
        """Those that are worth least, those with who is worth somewhat more, and so on; all of them last."""
        ...


class Listed:
    """Of those in a list."""

    def __init__(self, replicas: Iterable[Running]) -> None:
        self.freed_bytes: dict[str, int] = {}
        self._there: dict[str, list[Running]] = {}
        for replica in replicas:
            for node, size_bytes in replica.reserved_bytes.items():
                self.freed_bytes[node] = self.freed_bytes.get(node, 0) + size_bytes
                self._there.setdefault(node, []).append(replica)

    def there(self, node: str) -> Sequence[Running]:
        """Those that have something reserved on the node."""
        return self._there.get(node, ())

    def by_worth(self) -> "Sequence[Leaving]":
        """All of them, in one."""
        return (self,)


class Standing(Sequence[Running]):
    """Replicas that are up, for whoever knows without asking each of them who may be ended."""

    @property
    @abstractmethod
    def stoppable(self) -> Leaving:
        """Those that `may_stop`."""


NETWORK, ON_SSD, IN_DRAM = "network", "ssd", "dram"
"""Where the slowest bytes of a start come from."""


WRONG_BY = 0.25
"""The part of itself that a time to the first token may be predicted wrong by, whatever its bad end says: rates that were
measured once have none."""


@dataclass(frozen=True)
class Corrections:
    """What predictions were wrong by of late: seconds to add to a TTFT (in the mean, at the bad end) by degree and by the
    slowest place that bytes came from, and the seconds of a hop between stages. Learned from every start
    (`schedules.learning`).
    """

    ttft_s: Mapping[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    hop_s: float = 0.0

    def of(self, degree: int, slowest: str) -> tuple[float, float]:
        """For a degree that was never started so: that of the nearest that was."""
        known = [of for of, whence in self.ttft_s if whence == slowest]
        if not known:
            return 0.0, 0.0
        return self.ttft_s[min(known, key=lambda of: (abs(of - degree), of)), slowest]


@dataclass(frozen=True)
class Question:
    """Where shall this model start? `links` and `memory`, which say what is promised to others, are looked at and not
    changed; `start` names the start in them.

    `prompt_tokens` are those of the request that waits longest, which has waited `waited_s`.
    """

    start: str
    model: Model
    objectives: Objectives
    view: View
    links: Links
    now_s: float
    running: Sequence[Running] = ()
    prompt_tokens: int = 1
    waited_s: float = 0.0
    corrections: Corrections = Corrections()
    may_migrate: bool = False
    memory: Memory = field(default_factory=Memory)

    @property
    def stoppable(self) -> Leaving:
        """Those of the replicas that are up that may be ended."""
        running = self.running
        return running.stoppable if isinstance(running, Standing) else Listed([r for r in running if r.may_stop])

    def met_by(self, prediction: "Prediction") -> bool:
        """Whether the service level is met, at the bad end."""
        goal = self.objectives
        in_time = goal.ttft_s is None or prediction.ttft_bad_s <= goal.ttft_s
        return in_time and (goal.tpot_s is None or prediction.tpot_bad_s <= goal.tpot_s)


@dataclass(frozen=True)
class Prediction:
    """Of one candidate, in the mean and at the bad end: seconds from the request's arrival to its first token, and per
    output token. `parts` name what the mean is made of (seconds); they overlap, and hence add up to more. `slowest` is where
    the slowest bytes come from."""

    ttft_s: float
    ttft_bad_s: float
    tpot_s: float
    tpot_bad_s: float
    cost_byte_s: float
    parts: Mapping[str, float]
    slowest: str = NETWORK

    @property
    def ttft_best_s(self) -> float:
        """What the first token hardly comes before: as far below the mean as the bad end is above it, and never nearer than
        predictions are wrong by anyway."""
        return self.ttft_s - max(self.ttft_bad_s - self.ttft_s, WRONG_BY * self.ttft_s)

    def held_up(self, text_s: float) -> bool:
        """Whether the first token had to wait for the request's own text, made into tokens `text_s` after its arrival (0: at
        once)."""
        return text_s > 0.0 and text_s + self.parts["compute"] > self.ttft_s


@dataclass(frozen=True)
class Move:
    """What must happen to a running replica first: it is stopped if `to` is empty, else migrated to that node."""

    group: str
    model: str
    to: str = ""
    takes_s: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """One way to start the model. `ruled_out` says why it was not taken, empty for the one that was. Its moves are expected
    to cost others `lost_s` seconds of cold starts, as far as anybody knows."""

    degree: int
    nodes: tuple[str, ...]
    ruled_out: str
    placement: Placement | None = None
    prediction: Prediction | None = None
    moves: tuple[Move, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    lost_s: float = 0.0


@dataclass(frozen=True)
class Wait:
    """Not now: starting would make others late. Decide again at `until_s`, or when something ends before."""

    until_s: float
    reason: str


@dataclass(frozen=True)
class Decision:
    """What a policy decided: a placement to carry out after the chosen candidate's moves, or that there is none now."""

    policy: str
    outcome: Placement | NoPlacement | Wait
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        return next((c for c in self.candidates if c.placement is not None and c.placement is self.outcome), None)

    @property
    def without_losers(self) -> "Decision":
        """The chosen candidate alone: what is of use once its start is over."""
        chosen = self.chosen
        return Decision(self.policy, self.outcome, (chosen,) if chosen is not None else ())

    @property
    def kind(self) -> str:
        """What came out, in a word: "start", "wait" or "none"."""
        return {Placement: "start", NoPlacement: "none", Wait: "wait"}[type(self.outcome)]

    def as_json(self) -> dict[str, Any]:
        """For people and history: seconds and bytes."""
        outcome = self.outcome
        return {
            "policy": self.policy,
            "outcome": self.kind,
            "reason": "; ".join(outcome.reasons) if isinstance(outcome, Placement) else outcome.reason,
            "candidates": [_candidate_json(candidate, candidate is self.chosen) for candidate in self.candidates],
        }


class Policy(Protocol):
    """A rule that answers questions. Pure: the same question gets the same answer."""

    name: str

    def decide(self, question: Question) -> Decision:
        """Where the model shall start, or why it cannot."""
        ...


def _candidate_json(candidate: Candidate, chosen: bool) -> dict[str, Any]:
    prediction = candidate.prediction
    return {
        "degree": candidate.degree,
        "nodes": list(candidate.nodes),
        "chosen": chosen,
        "ruled_out": candidate.ruled_out,
        "moves": [{"group": m.group, "model": m.model, "to": m.to, "takes_s": m.takes_s} for m in candidate.moves],
        "prediction": None
        if prediction is None
        else {
            "ttft_s": prediction.ttft_s, "ttft_bad_s": prediction.ttft_bad_s, "tpot_s": prediction.tpot_s,
            "tpot_bad_s": prediction.tpot_bad_s, "cost_byte_s": prediction.cost_byte_s, "parts": dict(prediction.parts),
        },
    }  # fmt: skip
