"""Groups of real stages that requests move between: each stage a thread with a door of its own, where KV cache is pulled."""

import functools
import itertools
import queue
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.building.model import StageModel
from cluster.stage.choosing.batch import chooser_on
from cluster.stage.moving.kv_door import KvDoor
from cluster.stage.moving.shelf import Shelf
from cluster.stage.request_server import RequestServer
from cluster.stage.steps import StepLimits
from cluster.stage.worker import Worker
from cluster.wire.codec import frame, receive_frame
from cluster.wire.hello import Hello
from cluster.wire.kv import KvPulled, KvSource, PullKv
from cluster.wire.requests import (
    AskPlace,
    Caught,
    Event,
    Follow,
    GoOn,
    More,
    Placed,
    Submit,
    TokenLogprobs,
    Tokens,
    Yield,
    Yielded,
)
from storage_tiers.checkpoint import Checkpoint
from tests.cluster.threaded_group import DEADLINE_S, NoPulse, ThreadedGroup

MakeCache = Callable[[int, int, torch.device], SlabCache | PagedCache]
_CPU = torch.device("cpu")
_numbers = itertools.count()
_SECRET = "geheim"


@functools.cache
def _server(number: int) -> RequestServer:
    """One for all groups that are no longer there: as in a stage process, it lives as long as the process."""
    return RequestServer("127.0.0.1")


class MovingGroup:
    """Between `bounds`, on a CPU. `at` is the number of its first stage's door, of which each is for one group at a time."""

    def __init__(
        self, checkpoint: Checkpoint, weights: Mapping[str, torch.Tensor], bounds: Sequence[int], at: int = 0,
        make_cache: MakeCache = SlabCache, limits: StepLimits | None = None, kv_tokens: int = 4096,
    ) -> None:  # fmt: skip
        self.name, self.bounds = f"g{next(_numbers)}", bounds
        self.shelves: list[Shelf] = []
        self._servers = [_server(at + rank) for rank in range(len(bounds) - 1)]
        self._make_cache = make_cache
        self._group = ThreadedGroup(
            checkpoint, weights, bounds, kv_tokens, self._worker, limits=limits or StepLimits(), ahead=1
        )
        self._waiting: list[Event] = []

    def _worker(self, model: StageModel, kv_tokens: int) -> Worker:
        cache, shelf = self._make_cache(model.layers, kv_tokens, _CPU), Shelf(kv_tokens)
        worker = Worker(
            model, model, cache, lambda _name, _since_s: None, NoPulse(), None, chooser_on(_CPU), shelf
        )  # fmt: skip
        door = KvDoor(cache, shelf, _CPU, model.first_layer, model.end_layer, worker.exports)
        self._servers[len(self.shelves)].serve(Hello(self.name, _SECRET), None, talk_of_kv=door.talk)
        self.shelves.append(shelf)
        return worker

    def say(self, *commands: Submit | Follow | More | GoOn | Yield | AskPlace) -> None:
        for command in commands:
            self._group.driver.inbox.put(command)

    def hear(self) -> Event:
        """What it says next. The group rests while nobody listens."""
        while not self._waiting:
            self._waiting += self._group.events.get(timeout=DEADLINE_S)
        return self._waiting.pop(0)

    def answer(self, submit: Submit) -> tuple[list[int], list[TokenLogprobs]]:
        """All of an undisturbed request."""
        self.say(submit)
        return self.rest()

    def rest(self) -> tuple[list[int], list[TokenLogprobs]]:
        """What is still to come of the only request, up to its end."""
        tokens: list[int] = []
        logprobs: list[TokenLogprobs] = []
        while True:
            event = self.hear()
            assert isinstance(event, Tokens), event
            tokens += event.tokens
            logprobs += event.logprobs
            if event.finish is not None:
                return tokens, logprobs

    def sources(self, slot: int) -> tuple[KvSource, ...]:
        """Its stages' doors."""
        return tuple(
            KvSource("127.0.0.1", server.port, self.name, slot, *self.bounds[rank : rank + 2], _SECRET)
            for rank, server in enumerate(self._servers)
        )

    def pull(self, request: str, tokens: int, sources: Sequence[KvSource]) -> list[KvPulled]:
        """Have every stage pull what it needs; what they say."""
        found = []
        for server in self._servers:
            with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as line:
                line.sendall(frame(Hello(self.name, _SECRET, kv=True)))
                line.sendall(frame(PullKv(request, tokens, tuple(sources), DEADLINE_S)))
                found.append(receive_frame(line))
        return found

    def end(self) -> None:
        """What it still says is heard by nobody."""
        self.say(None)  # type: ignore[arg-type]
        while any(thread.is_alive() for thread in self._group._threads):
            try:
                self._group.events.get(timeout=0.05)
            except queue.Empty:
                continue


class Move:
    """A request that goes from one group to another after it has got `after` tokens there; `copied` of its KV cache."""

    def __init__(self, source: MovingGroup, heir: MovingGroup, submit: Submit) -> None:
        self.source, self.heir, self._submit = source, heir, submit
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.kv_tokens = 0
        source.say(submit)

    def hear_until(self, kind: type[Event], after: int = 0) -> Event:
        """Take what the source says, until it says that, or that many tokens have come."""
        while True:
            event = self.source.hear()
            if isinstance(event, Tokens):
                self.tokens += event.tokens
                self.logprobs += event.logprobs
                assert event.finish is None, "it was over before it could move"
            if isinstance(event, kind) and len(self.tokens) >= after:
                return event

    def begin(self, copy: bool) -> None:
        """The heir follows, with a copy of what the source has by now."""
        request = self._submit.request
        placed = Placed(request, None)
        while copy and placed.slot is None:
            self.source.say(AskPlace(request))
            answer = self.hear_until(Placed)
            assert isinstance(answer, Placed)
            placed = answer
        self.kv_tokens = placed.held_tokens
        if placed.slot is not None and placed.held_tokens:
            pulled = self.heir.pull(request, self.kv_tokens, self.source.sources(placed.slot))
            assert [answer.fault for answer in pulled] == [""] * len(pulled)
        self.heir.say(Follow(self._rest(), self.kv_tokens))
        self._known = len(self.tokens)

    def round(self, more: int) -> None:
        """The heir catches up, and is told of what the source said meanwhile."""
        caught = self.heir.hear()
        assert caught == Caught(self._submit.request, len(self._submit.tokens) + self._known)
        if more:
            self.hear_until(Tokens, len(self.tokens) + more)
            self.heir.say(More(self._submit.request, tuple(self.tokens[self._known :])))
            self._known = len(self.tokens)

    def finish(self) -> tuple[list[int], list[TokenLogprobs]]:
        """The source gives it up, and the heir goes on: the whole answer."""
        self.source.say(Yield(self._submit.request))
        self.hear_until(Yielded)
        self.heir.say(GoOn(self._submit.request, tuple(self.tokens[self._known :])))
        event = self.heir.hear()
        while isinstance(event, Caught):
            event = self.heir.hear()
        self.heir._waiting.insert(0, event)
        tokens, logprobs = self.heir.rest()
        return self.tokens + tokens, self.logprobs + logprobs

    def _rest(self) -> Submit:
        known = (*self._submit.tokens, *self.tokens)
        return replace(self._submit, tokens=known, max_tokens=self._submit.max_tokens - len(self.tokens))
