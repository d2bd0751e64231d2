"""The decode loop of a group: the first stage drives, the others follow, the last chooses tokens.

A step is a batch of requests, each with one new token or a piece of its prompt; as many steps are under way as there
are stages. What goes into a step is decided in cluster.stage.batching.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgpack
import torch

from cluster.stage.batching import Batching
from cluster.stage.choosing.batch import Pending
from cluster.stage.joining.hop import Header, Neighbours, Op
from cluster.stage.pooling import vector_bytes
from cluster.stage.steps import Adoption, Choice, Claim, Step
from cluster.stage.worker import Report, Worker
from cluster.wire.phases import FIRST_ANSWER
from cluster.wire.requests import AskPlace, Cancel, Event, Follow, GoOn, More, Rejected, Submit, Words, Yield
from cluster.wire.vocabulary import from_wire, pack, to_wire, unpack

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedWords:
    """Words as they go on to the last stage."""

    digest: str
    data: bytes


Command = Submit | Cancel | Follow | More | GoOn | Yield | AskPlace | Words | PackedWords | None
"""What the driver is told; None ends it."""
Emit = Callable[[Sequence[Event]], None]
Fault = Callable[[Submit], str | None]
"""Why a request cannot be run by this model; None if it can."""


class Driver:
    """The first stage. Takes commands from `inbox`, gives events to `emit`, until a None comes."""

    def __init__(
        self, worker: Worker, neighbours: Neighbours | None, batching: Batching, emit: Emit, alive_every_s: float,
        fault: Fault = lambda _submit: None, report: Report | None = None,
    ) -> None:  # fmt: skip
        self.inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._worker, self._neighbours, self._batching = worker, neighbours, batching
        self._emit, self._alive_every_s, self._fault = emit, alive_every_s, fault
        self._report: Report | None = report
        self._since_s = 0.0
        self._steps: list[tuple[Step | Claim, Pending | None]] = []
        self._vectors: deque[list[torch.Tensor]] = deque()  # of the steps under way that give any

    def hear(self, command: Command) -> None:
        """Put it into the inbox; what takes long to pack is packed here, not between two steps. Thread-safe."""
        if isinstance(command, Words) and self._neighbours is not None:
            command = PackedWords(command.digest, pack(command))
        self.inbox.put(command)

    def run(self) -> None:
        """Until told to end. RuntimeError if a neighbour is gone, StageFailed if a unit does not come."""
        while self._take_commands():
            self._forget()  # before others get the room of those who were cancelled
            self._adopt()
            while (step := self._batching.next_step(self._worker.order)) is not None:
                self._launch(step)
            self._run_ahead()
            self._tell()
            if self._steps:
                self._land(*self._steps.pop(0))
            self._forget()
            self._tell()
        if self._neighbours is not None:
            self._neighbours.send(Header(Op.STOP))
            self._neighbours.drain()

    def _take_commands(self) -> bool:
        """Handle all that is in the inbox, waiting for something when there is nothing else to do. False: end."""
        idle = self._batching.idle and not self._steps
        while True:
            try:
                command = self.inbox.get(block=idle, timeout=self._alive_every_s if idle else None)
            except queue.Empty:
                if not idle:
                    return True
                if self._neighbours is not None:
                    self._neighbours.send(Header(Op.ALIVE))
                continue
            if command is None:
                return False
            self._hear(command)
            idle = False

    def _hear(self, command: Submit | Cancel | Follow | More | GoOn | Yield | AskPlace | Words | PackedWords) -> None:
        batching = self._batching
        match command:
            case Submit():
                if self._take(command, batching.submit):
                    self._awaited()
            case Follow():
                self._take(command.submit, lambda submit: batching.follow(submit, command.copied_tokens))
                for claim in batching.take_claims():
                    self._claim(claim)
            case More() | GoOn():
                fault = self._fault(Submit(command.request, command.tokens, 0, 0, ()))
                if fault is not None:
                    batching.cancel(command.request)
                    self._emit([Rejected(command.request, fault)])
                elif isinstance(command, More):
                    batching.more(command.request, command.tokens)
                else:
                    batching.go_on(command.request, command.tokens)
                    self._awaited()
            case Words():
                self._worker.learn(command.digest, lambda: command)
            case PackedWords():
                assert self._neighbours is not None
                extra = msgpack.packb((command.digest, command.data))
                self._neighbours.send(Header(Op.WORDS, extra_bytes=len(extra)), extra=extra)
            case Yield():
                batching.yield_up(command.request)
            case Cancel():
                batching.cancel(command.request)
            case AskPlace():
                placed = batching.place(command.request)
                self._emit([placed if self._worker.exports else replace(placed, held_tokens=0)])

    def _take(self, submit: Submit, take: Callable[[Submit], Rejected | None]) -> bool:
        fault = self._fault(submit)
        rejected = take(submit) if fault is None else Rejected(submit.request, fault)
        if rejected is not None:
            self._emit([rejected])
        return rejected is None

    def _awaited(self) -> None:
        """From now on somebody waits for a first token."""
        self._since_s = self._since_s or time.monotonic()

    def _claim(self, claim: Claim) -> None:
        """Ask the stages, in the order of steps, whether they have what was pulled; what they say is known when it lands."""
        held = self._worker.claim(claim)
        if self._neighbours is None:
            self._heard(claim, held)
            return
        name = claim.request.encode()
        numbers = claim.slot, claim.tokens, int(held)
        self._neighbours.send(Header(Op.CLAIM, numbers=numbers, extra_bytes=len(name)), extra=name)
        self._steps.append((claim, None))

    def _heard(self, claim: Claim, held: bool) -> None:
        self._batching.claimed(claim.slot, held)
        if not held:
            self._worker.forget([claim.slot])
            if self._neighbours is not None:
                self._neighbours.send(Header(Op.FORGET, slots=(claim.slot,)))

    def _adopt(self) -> None:
        """Have the stages put some more of what they claimed into its place."""
        adoption = self._batching.next_adoption()
        if adoption is None:
            return
        self._worker.adopt(adoption)
        if self._neighbours is not None:
            numbers = adoption.slot, adoption.room, adoption.first, adoption.end
            self._neighbours.send(Header(Op.ADOPT, numbers=numbers))

    def _tell(self) -> None:
        news = self._batching.take_news()
        if news:
            self._emit(news)

    def _launch(self, step: Step) -> None:
        """Run a step through this stage and pass it on."""
        if self._neighbours is None:
            for slot, submit in step.started:
                self._worker.start(slot, submit)
        out = self._worker.step(step.segments, torch.tensor([step.feed]))
        if self._neighbours is None:
            if step.vectors:
                self._vectors.append(self._worker.take_vectors())
            self._steps.append((step, self._worker.begin_choices(step.wanted, out) if step.wanted else None))
            return
        extra = msgpack.packb([(slot, to_wire(submit)) for slot, submit in step.started]) if step.started else b""
        self._neighbours.send(Header(Op.STEP, step.segments, extra_bytes=len(extra)), out, extra)
        self._steps.append((step, None))

    def _run_ahead(self) -> None:
        """Have the device go on with the tokens that it chooses, while they are looked at here."""
        if self._neighbours is not None or len(self._steps) != 1:
            return
        step, pending = self._steps[0]
        if isinstance(step, Claim) or pending is None or pending.tokens is None:
            return
        if not self._worker.may_run_ahead(step.segments):
            return
        ahead = self._batching.step_ahead()
        if ahead is None:
            return
        tokens = pending.tokens
        if len(ahead.ahead) < len(step.segments):
            tokens = tokens[torch.tensor(ahead.ahead, device=tokens.device)]
        out = self._worker.step(ahead.segments, tokens[None])
        self._steps.append((ahead, self._worker.begin_choices(ahead.segments, out)))

    def _land(self, step: Step | Claim, pending: Pending | None) -> None:
        if isinstance(step, Claim):
            assert self._neighbours is not None
            (answer,) = self._neighbours.receive_choices(1)
            self._heard(step, answer.token is not None)
            return
        if pending is not None:
            choices = pending.result()
        elif self._neighbours is not None:
            choices = self._neighbours.receive_choices(len(step.wanted))
        else:
            choices = []
        unforeseen = pending.unforeseen if pending is not None else ()
        events = self._batching.land(choices, unforeseen, self._land_vectors(step))
        if events:
            self._emit(events)
            if self._report is not None:
                report, self._report = self._report, None
                report(FIRST_ANSWER, self._since_s)

    def _land_vectors(self, step: Step) -> list[bytes | None]:
        if not step.vectors:
            return []
        ring = self._neighbours
        vectors = self._vectors.popleft() if ring is None else ring.receive_vectors(step.vectors)
        return [vector_bytes(vector) for vector in vectors]

    def _forget(self) -> None:
        slots = self._batching.take_ended()
        if not slots:
            return
        self._worker.forget(slots)
        if self._neighbours is not None:
            self._neighbours.send(Header(Op.FORGET, slots=tuple(slots)))


def follow(worker: Worker, neighbours: Neighbours, last: bool) -> None:
    """Every stage but the first: do what comes, pass it on, until told to stop. RuntimeError if a neighbour is gone."""
    while True:
        header, hidden, extra = neighbours.receive()
        if header.op is Op.STEP:
            assert hidden is not None
            if last and extra:
                for slot, submit in msgpack.unpackb(extra, use_list=False):
                    worker.start(slot, from_wire(submit))
            out = worker.step(header.segments, hidden)
            if last:
                wanted = [segment for segment in header.segments if segment.wanted]
                neighbours.send_choices(worker.choose(wanted, out))
                neighbours.send_vectors(worker.take_vectors())
            else:
                neighbours.send(header, out, extra)
            continue
        if header.op is Op.CLAIM:
            slot, tokens, held = header.numbers
            held &= worker.claim(Claim(slot, extra.decode(), tokens))
            if last:
                neighbours.send_choices([Choice(1 if held else None)])
            else:
                neighbours.send(replace(header, numbers=(slot, tokens, int(held))), extra=extra)
            continue
        if header.op is Op.WORDS and last:
            digest, data = msgpack.unpackb(extra)
            worker.learn(digest, partial(unpack, data))
        if header.op is Op.ADOPT:
            worker.adopt(Adoption(*header.numbers))
        if header.op is Op.FORGET:
            worker.forget(header.slots)
        if not last:
            neighbours.send(header, extra=extra)
        if header.op is Op.STOP:
            neighbours.drain()
            return
