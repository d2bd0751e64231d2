"""The decode loop of a group: the first stage drives, the others follow, the last chooses tokens.

Several requests are in flight, one micro-batch each, at most one per stage; each has a KV cache of its own on every stage.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from cluster.hop import Header, Neighbours, Op
from cluster.messages import FIRST_STEP, Cancel, Rejected, Submit, Tokens, pack, unpack
from cluster.sampling import Sampler
from cluster.stage_model import StageModel

_log = logging.getLogger(__name__)
Forward = Callable[[torch.Tensor], torch.Tensor]
Report = Callable[[str, float], None]
"""Told of a phase that ends now: its name and when it started (unix seconds)."""


class Worker:
    """What every stage does with a step: find the request's cache and run its layers."""

    def __init__(self, forward: Forward, model: StageModel, report: Report) -> None:
        self._forward, self._model = forward, model
        self._report: Report | None = report
        self._caches: dict[int, DynamicCache] = {}
        self._samplers: dict[int, Sampler] = {}

    def start(self, slot: int, submit: Submit) -> None:
        """The last stage learns how a request's tokens are chosen."""
        self._samplers[slot] = Sampler(submit.sampling, submit.tokens[submit.prompt_tokens :])

    @torch.inference_mode()
    def step(self, slot: int, x: torch.Tensor, position: int) -> torch.Tensor:
        """Run this stage's layers on `x` for the request in `slot`."""
        cache = self._caches.get(slot)
        if cache is None:
            cache = self._caches[slot] = self._model.new_cache()
        self._model.turn_to(cache, position)
        if self._report is None:
            return self._forward(x)
        report, self._report = self._report, None
        started_s = time.time()
        out = self._forward(x)
        report(FIRST_STEP, started_s)
        return out

    def choose(self, slot: int, logits: torch.Tensor, position: int) -> int:
        """The request's next token, from the last stage's output (1, 1, vocabulary)."""
        return self._samplers[slot].choose(logits[0, -1], position)

    def forget(self, slot: int) -> None:
        """Free what the request held."""
        self._caches.pop(slot, None)
        self._samplers.pop(slot, None)


@dataclass
class _Request:
    submit: Submit
    slot: int
    fed: int = 0
    generated: list[int] = field(default_factory=list)
    cancelled: bool = False

    @property
    def cost_tokens(self) -> int:
        return len(self.submit.tokens) + self.submit.max_tokens


Command = Submit | Cancel | None
"""What the driver is told; None ends it."""


class Driver:
    """The first stage. Takes commands from `inbox`, gives events to `emit`, until a None comes.

    KV cache is accounted in tokens: a request runs when its whole length fits beside those running, in order of
    arrival; until then it waits.
    """

    def __init__(
        self,
        worker: Worker,
        neighbours: Neighbours | None,
        degree: int,
        kv_tokens: int,
        emit: Callable[[Tokens | Rejected], None],
        alive_every_s: float,
    ) -> None:
        self.inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._worker, self._neighbours, self._degree = worker, neighbours, degree
        self._kv_tokens, self._emit, self._alive_every_s = kv_tokens, emit, alive_every_s
        self._waiting: deque[_Request] = deque()
        self._ready: deque[_Request] = deque()
        self._in_flight: deque[tuple[_Request, int | None]] = deque()
        self._running: dict[int, _Request] = {}
        self._slots = 0

    def run(self) -> None:
        """Until told to end. RuntimeError if a neighbour is gone, StageFailed if a unit does not come."""
        while self._take_commands():
            self._admit()
            while self._ready and len(self._in_flight) < self._degree:
                self._launch(self._ready.popleft())
            if self._in_flight:
                request, token = self._in_flight.popleft()
                if token is None:
                    assert self._neighbours is not None
                    token = self._neighbours.receive_token()
                self._land(request, token)
        if self._neighbours is not None:
            self._neighbours.send(Header(Op.STOP))
            self._neighbours.drain()

    def _take_commands(self) -> bool:
        """Handle all that is in the inbox, waiting for something when there is nothing else to do. False: end."""
        idle = not (self._ready or self._in_flight or self._waiting)
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
            self._obey(command)
            idle = False

    def _obey(self, command: Submit | Cancel) -> None:
        if isinstance(command, Cancel):
            for request in self._running.values():
                request.cancelled |= request.submit.request == command.request
            self._waiting = deque(r for r in self._waiting if r.submit.request != command.request)
            return
        self._slots += 1
        request = _Request(command, self._slots)
        if request.cost_tokens > self._kv_tokens:
            text = f"prompt and max_tokens are {request.cost_tokens} tokens, this replica's KV cache holds {self._kv_tokens}"
            self._emit(Rejected(command.request, text))
            return
        self._waiting.append(request)

    def _admit(self) -> None:
        used = sum(request.cost_tokens for request in self._running.values())
        while self._waiting and used + self._waiting[0].cost_tokens <= self._kv_tokens:
            request = self._waiting.popleft()
            used += request.cost_tokens
            self._running[request.slot] = request
            self._ready.append(request)

    def _launch(self, request: _Request) -> None:
        """Run one step of the request through this stage and pass it on."""
        if request.cancelled:
            self._end(request)
            return
        sequence = (*request.submit.tokens, *request.generated)
        first_step = request.fed == 0
        tokens, position = sequence[request.fed :], request.fed
        request.fed = len(sequence)
        if first_step and self._neighbours is None:
            self._worker.start(request.slot, request.submit)
        out = self._worker.step(request.slot, torch.tensor([tokens]), position)
        if self._neighbours is None:
            self._in_flight.append((request, self._worker.choose(request.slot, out, request.fed)))
            return
        extra = pack(request.submit) if first_step else b""
        self._neighbours.send(Header(Op.STEP, request.slot, len(tokens), position), out, extra)
        self._in_flight.append((request, None))

    def _land(self, request: _Request, token: int) -> None:
        """A step came back with its token."""
        if request.cancelled:
            self._end(request)
            return
        request.generated.append(token)
        finish = None
        if token in request.submit.stop_tokens:
            finish = "stop"
        elif len(request.generated) >= request.submit.max_tokens:
            finish = "length"
        self._emit(Tokens(request.submit.request, (token,), finish))
        if finish is None:
            self._ready.append(request)
        else:
            self._end(request)

    def _end(self, request: _Request) -> None:
        del self._running[request.slot]
        self._worker.forget(request.slot)
        if self._neighbours is not None:
            self._neighbours.send(Header(Op.FORGET, request.slot))


def follow(worker: Worker, neighbours: Neighbours, last: bool) -> None:
    """Every stage but the first: do what comes, pass it on, until told to stop. RuntimeError if a neighbour is gone."""
    while True:
        header, hidden, extra = neighbours.receive()
        if header.op is Op.STEP:
            assert hidden is not None
            if last and extra:
                worker.start(header.slot, unpack(extra))
            out = worker.step(header.slot, hidden, header.position)
            if last:
                neighbours.send_token(worker.choose(header.slot, out, header.position + header.tokens))
            else:
                neighbours.send(header, out, extra)
            continue
        if header.op is Op.FORGET:
            worker.forget(header.slot)
        if not last:
            neighbours.send(header)
        if header.op is Op.STOP:
            neighbours.drain()
            return
