"""A group of real stages, each a thread of this process: their layers, caches and loops, and the hop played in memory."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from cluster.model_facts import model_config, renewal_border
from cluster.stage.batching import Batching
from cluster.stage.building.model import StageModel
from cluster.stage.choosing.batch import chooser_on
from cluster.stage.engine import Driver, follow
from cluster.stage.joining.hop import Header
from cluster.stage.stepping.acceleration import Accelerated, NoAcceleration, means
from cluster.stage.steps import Choice, StepLimits
from cluster.stage.worker import Worker
from cluster.wire.requests import Event, Submit, Tokens
from storage_tiers.checkpoint import Checkpoint

DEADLINE_S = 60.0
_LIMITS = StepLimits()
_CPU = torch.device("cpu")


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

    def send_vectors(self, vectors: Sequence[torch.Tensor]) -> None:
        if vectors:
            self._after.put(list(vectors))

    def receive_vectors(self, count: int) -> object:
        return self._before.get(timeout=DEADLINE_S)

    def drain(self) -> None:
        pass


class NoPulse:
    """Nobody watches whether these stages hang."""

    def step(self, tokens: int) -> None:
        pass

    def rest(self) -> None:
        pass


class Workers:
    """Makes workers that report to nobody, with the means of their device.

    What makes steps fast on a GPU is for a stage that is `alone` in its process.
    """

    def __init__(self, device: torch.device, alone: bool = True) -> None:
        self._device, self._alone = device, alone
        self._accelerated: list[Accelerated] = []

    def __call__(self, model: StageModel, kv_tokens: int) -> Worker:
        """To be made before the model has its units."""
        cache, acceleration = means(model, model, kv_tokens, self._device)
        if not self._alone:
            acceleration = NoAcceleration()
        if isinstance(acceleration, Accelerated):
            self._accelerated.append(acceleration)
        report, chooser = lambda _name, _started_s: None, chooser_on(self._device)
        return Worker(model, model, cache, report, NoPulse(), acceleration, chooser)

    def hasten(self) -> bool:
        """Wait until steps are as fast as they become, which begins with the first; whether anything makes them so."""
        assert all(acceleration.join(DEADLINE_S) for acceleration in self._accelerated)
        return bool(self._accelerated)


def move_buffers(model: StageModel, device: torch.device) -> None:
    """Have what was computed, not loaded, on the device."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_meta:
                setattr(module, name, buffer.to(device))


class ThreadedGroup:
    """The stages between `bounds` of a checkpoint, with its `weights` by name, on a device. They run until `end`.

    With `ahead` the first one waits while so many steps' events have not been taken.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        weights: Mapping[str, torch.Tensor],
        bounds: Sequence[int],
        kv_tokens: int = 4096,
        make_worker: Callable[[StageModel, int], Worker] | None = None,
        device: torch.device = _CPU,
        limits: StepLimits = _LIMITS,
        ahead: int = 0,
    ) -> None:
        config = model_config(dict(checkpoint.config))
        degree = len(bounds) - 1
        lines = [queue.Queue[object]() for _ in range(degree)]
        rings = [_Ring(lines[rank], lines[(rank + 1) % degree]) for rank in range(degree)]
        self._workers = Workers(device, alone=degree == 1)
        make_worker = make_worker or self._workers
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
        workers = []
        for rank in range(degree):
            model = StageModel(config, torch.float32, *bounds[rank : rank + 2], lambda _unit, _gate: None)
            move_buffers(model, device)
            workers.append(make_worker(model.eval(), kv_tokens))
            for unit in checkpoint.units:
                model.assign(unit.name, weights)
        self.events: queue.Queue[Sequence[Event]] = queue.Queue(ahead)
        self.driver = Driver(
            workers[0],
            rings[0] if degree > 1 else None,  # type: ignore[arg-type]
            Batching(kv_tokens, degree, renewal_border(config), limits),
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

    def hasten(self) -> bool:
        """Wait until steps are as fast as they become on the device; whether anything makes them so."""
        return self._workers.hasten()

    def end(self) -> None:
        self.driver.inbox.put(None)
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
