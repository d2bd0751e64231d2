"""Stand-ins for what the decode loop drives: layers that remember what they were fed, and a ring of one's own."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cluster.hop import Header, Op
from cluster.messages import Submit, Tokens


@dataclass
class FakeWorker:
    """Takes the place of a Worker: `script` says which tokens each request's steps give, 7 where it says nothing."""

    script: Mapping[str, Sequence[int]] = field(default_factory=dict)
    before_step: Callable[[str], None] = lambda _request: None
    fed: list[tuple[str, list[int], int]] = field(default_factory=list)
    alive: dict[int, str] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)
    most_alive: int = 0

    def start(self, slot: int, submit: Submit) -> None:
        assert slot not in self.alive, "a slot was used twice"
        self.alive[slot] = submit.request
        self.most_alive = max(self.most_alive, len(self.alive))

    def step(self, slot: int, x: torch.Tensor, position: int) -> torch.Tensor:
        request = self.alive.get(slot, str(slot))
        self.before_step(request)
        self.fed.append((request, x.reshape(-1).tolist(), position))
        return x

    def choose(self, slot: int, logits: torch.Tensor, position: int) -> int:
        count = self.chosen[slot] = self.chosen.get(slot, -1) + 1
        script = self.script.get(self.alive[slot], ())
        return script[count] if count < len(script) else 7

    def forget(self, slot: int) -> None:
        self.alive.pop(slot, None)


@dataclass
class FakeNeighbours:
    """Takes the place of Neighbours: keeps what is sent, answers every step with token 7, plays back `hops`."""

    hops: deque[tuple[Header, torch.Tensor | None, bytes]] = field(default_factory=deque)
    sent: list[tuple[Header, torch.Tensor | None, bytes]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    on_send: Callable[[Header], None] = lambda _header: None
    under_way: int = 0
    most_under_way: int = 0
    drained: bool = False

    def send(self, header: Header, hidden: torch.Tensor | None = None, extra: bytes = b"") -> None:
        self.sent.append((header, hidden, extra))
        if header.op is Op.STEP:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        self.on_send(header)

    def receive(self) -> tuple[Header, torch.Tensor | None, bytes]:
        return self.hops.popleft()

    def send_token(self, token: int) -> None:
        self.tokens.append(token)

    def receive_token(self) -> int:
        assert self.under_way, "a token is waited for, and no step is under way"
        self.under_way -= 1
        return 7

    def drain(self) -> None:
        self.drained = True

    def ops(self) -> list[tuple[Op, int]]:
        """What was sent, as (what, for whom)."""
        return [(header.op, header.slot) for header, _, _ in self.sent]


def texts_of(events: Sequence[object]) -> dict[str, list[int]]:
    """The tokens of each request, in order."""
    found: dict[str, list[int]] = {}
    for event in events:
        if isinstance(event, Tokens):
            found.setdefault(event.request, []).extend(event.tokens)
    return found
