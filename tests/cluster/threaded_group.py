"""A group of real stages, each a thread of this process: their layers, caches and loops, and the hop played in memory."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from cluster.model_facts import model_config, renewal_border
from cluster.stage.batching import Batching, Choice
from cluster.stage.engine import Driver, Worker, follow
from cluster.stage.hop import Header
from cluster.stage.kv import KvCache
from cluster.stage.model import StageModel
from cluster.wire.requests import Rejected, Submit, Tokens
from storage_tiers.checkpoint import Checkpoint

DEADLINE_S = 60.0


class _Ring:
    """Two stages' lines to each other, in one process."""

    def __init__(self, before: "queue.Queue[object]", after: "queue.Queue[object]") -> None:
        self._before, self._after = before, after

    def send(self, header: Header, hidden: torch.Tensor | None = None, extra: bytes = b"") -> None:
        self._after.put((header, hidden, extra))

    def receive(self) -> object:
        return self._before.get(timeout=DEADLINE_S)

    def send_choices(self, choices: Sequence[Choice]) -> None:
        self._after.put(list(choices))

    def receive_choices(self, count: int) -> object:
        return self._before.get(timeout=DEADLINE_S)

    def drain(self) -> None:
        pass


class NoPulse:
    """Nobody watches whether these stages hang."""

    def step(self, tokens: int) -> None:
        pass

    def rest(self) -> None:
        pass


def worker_of(model: StageModel, kv_tokens: int) -> Worker:
    """What does a stage's steps, and reports to nobody."""
    cache = KvCache(model.layers, kv_tokens, torch.device("cpu"))
    return Worker(model, model, cache, lambda _name, _started_s: None, NoPulse())


class ThreadedGroup:
    """The stages between `bounds` of a checkpoint, with its `weights` by name. They run until `end`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        weights: Mapping[str, torch.Tensor],
        bounds: Sequence[int],
        kv_tokens: int = 4096,
        make_worker: Callable[[StageModel, int], Worker] = worker_of,
    ) -> None:
        config = model_config(dict(checkpoint.config))
        degree = len(bounds) - 1
        lines = [queue.Queue[object]() for _ in range(degree)]
        rings = [_Ring(lines[rank], lines[(rank + 1) % degree]) for rank in range(degree)]
        workers = []
        for rank in range(degree):
            model = StageModel(config, torch.float32, *bounds[rank : rank + 2], lambda _unit, _gate: None)
            for unit in checkpoint.units:
                model.assign(unit.name, weights)
            workers.append(make_worker(model.eval(), kv_tokens))
        self.events: queue.Queue[Sequence[Tokens | Rejected]] = queue.Queue()
        self.driver = Driver(
            workers[0],
            rings[0] if degree > 1 else None,  # type: ignore[arg-type]
            Batching(kv_tokens, degree, renewal_border(config)),
            self.events.put,
            DEADLINE_S,
        )
        self._threads = [threading.Thread(target=self.driver.run)]
        for rank in range(1, degree):
            self._threads.append(threading.Thread(target=follow, args=(workers[rank], rings[rank], rank == degree - 1)))
        for thread in self._threads:
            thread.start()

    def answers(self, submits: Sequence[Submit]) -> dict[str, list[int]]:
        """All tokens of requests that come at once, by request."""
        given: dict[str, list[int]] = {submit.request: [] for submit in submits}
        for submit in submits:
            self.driver.inbox.put(submit)
        left = len(submits)
        while left:
            for event in self.events.get(timeout=DEADLINE_S):
                assert isinstance(event, Tokens), event
                given[event.request] += event.tokens
                left -= event.finish is not None
        return given

    def end(self) -> None:
        self.driver.inbox.put(None)
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
