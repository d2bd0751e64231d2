"""Stand-ins for what the decode loop drives: layers that remember what they were fed, and a ring of one's own."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cluster.stage.joining.hop import Header, Op
from cluster.stage.steps import Adoption, Choice, Claim, Segment
from cluster.wire.requests import Submit, Tokens, Words

Fed = tuple[int, list[int], int]
"""A slot, what it was fed, and the position of the first of it."""


@dataclass
class FakePending:
    """Tokens that are chosen on a device: known there at once, here when they are asked for."""

    choices: list[Choice]
    tokens: torch.Tensor | None = None
    unforeseen: list[int] = field(default_factory=list)

    def result(self) -> list[Choice]:
        return self.choices


@dataclass
class FakeWorker:
    """Takes the place of a Worker: `script` says which tokens each request's steps give, 7 where it says nothing."""

    script: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fed: list[list[Fed]] = field(default_factory=list)
    started: dict[int, Submit] = field(default_factory=dict)
    rooms: dict[int, int] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)
    most_room: int = 0
    held: set[str] = field(default_factory=set)
    adopted: list[Adoption] = field(default_factory=list)
    learned: dict[str, Words] = field(default_factory=dict)
    exports: bool = True

    def claim(self, claim: Claim) -> bool:
        return claim.request in self.held

    def adopt(self, adoption: Adoption) -> None:
        self.adopted.append(adoption)

    def learn(self, digest: str, words: Callable[[], Words]) -> None:
        self.learned[digest] = words()

    def start(self, slot: int, submit: Submit) -> None:
        assert slot not in self.started, "a slot was used twice"
        self.started[slot] = submit

    def order(self, segment: Segment) -> tuple[int, int]:
        return segment.room, segment.slot

    def step(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor:
        assert x.shape[:2] == (1, sum(segment.tokens for segment in segments))
        pieces = x.reshape(x.shape[1], -1)[:, 0].split([segment.tokens for segment in segments])
        self.fed.append([(s.slot, piece.tolist(), s.position) for s, piece in zip(segments, pieces, strict=True)])
        self.rooms |= {segment.slot: segment.room for segment in segments}
        self.most_room = max(self.most_room, sum(self.rooms.values()))
        return x

    def may_run_ahead(self, segments: Sequence[Segment]) -> bool:
        return False

    def begin_choices(self, segments: Sequence[Segment], logits: torch.Tensor) -> FakePending:
        return FakePending(self.choose(segments, logits))

    def choose(self, segments: Sequence[Segment], logits: torch.Tensor) -> list[Choice]:
        return [self._choice(segment.slot) for segment in segments]

    def take_vectors(self) -> list[torch.Tensor]:
        return []

    def forget(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.started.pop(slot, None)
            self.rooms.pop(slot, None)

    def _choice(self, slot: int) -> Choice:
        count = self.chosen[slot] = self.chosen.get(slot, -1) + 1
        script = self.script.get(self.started[slot].request, ())
        return Choice(script[count] if count < len(script) else 7)


@dataclass
class FakeNeighbours:
    """Takes the place of Neighbours: keeps what is sent, answers every step with tokens 7, plays back `hops`."""

    hops: deque[tuple[Header, torch.Tensor | None, bytes]] = field(default_factory=deque)
    sent: list[tuple[Header, torch.Tensor | None, bytes]] = field(default_factory=list)
    choices: list[list[Choice]] = field(default_factory=list)
    on_send: Callable[[Header], None] = lambda _header: None
    under_way: deque[Header] = field(default_factory=deque)
    most_under_way: int = 0
    drained: bool = False
    held: bool = True
    """Whether the others have what is claimed."""

    def send(self, header: Header, hidden: torch.Tensor | None = None, extra: bytes = b"") -> None:
        assert header.extra_bytes == len(extra)
        self.sent.append((header, hidden, extra))
        if header.op in (Op.STEP, Op.CLAIM):
            self.under_way.append(header)
            self.most_under_way = max(self.most_under_way, len(self.under_way))
        self.on_send(header)

    def receive(self) -> tuple[Header, torch.Tensor | None, bytes]:
        return self.hops.popleft()

    def send_choices(self, choices: Sequence[Choice]) -> None:
        self.choices.append(list(choices))

    def send_vectors(self, vectors: Sequence[torch.Tensor]) -> None:
        assert not vectors

    def receive_choices(self, count: int) -> list[Choice]:
        assert self.under_way, "choices are waited for, and no step is under way"
        header = self.under_way.popleft()
        if header.op is Op.CLAIM:
            return [Choice(1 if header.numbers[2] and self.held else None)]
        wanted = sum(segment.wanted for segment in header.segments)
        assert count == wanted, "as many choices are waited for as the last stage sends"
        return [Choice(7)] * count

    def drain(self) -> None:
        self.drained = True

    def ops(self) -> list[tuple[Op, list[int]]]:
        """What was sent, as (what, for which slots)."""
        return [
            (header.op, [*header.slots, *(segment.slot for segment in header.segments)]) for header, _, _ in self.sent
        ]


def texts_of(events: Sequence[object]) -> dict[str, list[int]]:
    """The tokens of each request, in order."""
    found: dict[str, list[int]] = {}
    for event in events:
        if isinstance(event, Tokens):
            found.setdefault(event.request, []).extend(event.tokens)
    return found
