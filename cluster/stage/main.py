"""A stage process: waits ready in its node's pool, becomes one stage of one group, and ends with it."""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import torch
from torch import nn

from cluster.errors import StageFailed
from cluster.model_facts import learned_positions, model_config, renewal_border
from cluster.stage.admission import find_fault
from cluster.stage.batching import Batching
from cluster.stage.building.gate import Gate
from cluster.stage.building.model import StageModel, build_pipeline
from cluster.stage.choosing.batch import chooser_on
from cluster.stage.compute_probe import measure_products
from cluster.stage.context_meter import ContextMeter
from cluster.stage.engine import Driver, follow
from cluster.stage.joining.hop import Neighbours
from cluster.stage.joining.meeting import Meeting
from cluster.stage.joining.membership import join
from cluster.stage.moving.kv_door import KvDoor
from cluster.stage.moving.shelf import Shelf
from cluster.stage.pace import Pace
from cluster.stage.pulse import Pulse
from cluster.stage.request_server import RequestServer
from cluster.stage.stepping.acceleration import means
from cluster.stage.stepping.threads import Crew, ThreadChoice
from cluster.stage.steps import GPU_LIMITS, StepLimits
from cluster.stage.units import FAULTS, NodeMemory, Tensors, UnitsByCopy, UnitsInPlace
from cluster.stage.warm_up import form_once, prepare, warm_up
from cluster.stage.worker import Pulse as Felt
from cluster.stage.worker import Worker
from cluster.wire.codec import Channel
from cluster.wire.hello import Hello
from cluster.wire.phases import ASSIGN, BUILD_SKELETON, STAGE, WAIT, timed_phase
from cluster.wire.stages import (
    Beat,
    Broken,
    Build,
    Callers,
    Formed,
    Idle,
    PhaseDone,
    PoolHere,
    PoolReal,
    Quiet,
    RowsHere,
    RowsWanted,
    Taken,
    UnitHere,
)
from schedules.rates import formed
from storage_tiers.checkpoint import UnitIndex
from storage_tiers.tiers.cuda_copy import CudaCopy
from storage_tiers.tiers.cuda_driver import CudaDriver
from storage_tiers.tiers.device import DeviceTier

_log = logging.getLogger(__name__)


def main(sock: socket.socket, host: str, threads: int, kind: str, measure: bool = False) -> None:
    """The life of a stage process. `sock` leads to the agent; when it closes, the process ends at once.

    `kind` is "cpu", or "cuda" for the one GPU that the process can see. To `measure` takes about 0.2 s more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["LOCAL_RANK"] = "0"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    channel = Channel(sock)
    server = RequestServer(host)
    device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
    prepare(device)
    meter = ContextMeter(device)
    warm_up(device)
    rates = _measure(device) if measure else {}
    memory = _node_memory(device) if kind == "cuda" else None
    live(channel, server, device, memory, rates, meter.taken_bytes())


def live(
    channel: Channel,
    server: RequestServer,
    device: torch.device,
    memory: NodeMemory | None,
    rates: Mapping[str, float],
    context_bytes: int = 0,
) -> None:
    """Wait for an order, and carry it out. With `memory` units are copied from there, without they are used in place.

    `context_bytes`: what the process has of its GPU by now.
    """
    try:
        channel.send(Idle(os.getpid(), server.port, rates, context_bytes))
        message = _await_order(channel, memory)
        channel.send(Taken())
    except (EOFError, OSError):
        return
    if isinstance(message, Build):
        if memory is not None:
            memory.pin_what_is_wanted()
        _Stage(channel, server, message, device, memory).run()


def _await_order(channel: Channel, memory: NodeMemory | None) -> object:
    """The first message that is not about the node's memory, which is pinned meanwhile. EOFError if the agent is gone."""
    while True:
        message, fd = channel.receive()
        if not isinstance(message, PoolHere | PoolReal):
            return message
        _hear(memory, message, fd)


def _node_memory(device: torch.device) -> NodeMemory:
    memory = NodeMemory(CudaCopy(CudaDriver(device)))
    memory.copy.warm_up()
    return memory


def _hear(memory: NodeMemory | None, message: PoolHere | PoolReal, fd: int | None) -> None:
    if memory is not None:
        memory.hear(message, fd)
    elif fd is not None:
        os.close(fd)


def _measure(device: torch.device) -> dict[str, float]:
    """What a stage needs to be formed and to compute, as far as it can be told without a model."""
    since_s = time.perf_counter()
    form_once(device, [torch.float32])  # what it does is now as slow as it will be
    return {formed(1): time.perf_counter() - since_s, **measure_products(device)}


def _limit_memory(device: torch.device, most_bytes: int) -> None:
    """Stages share a GPU: one that asks for more than it has reserved for itself fails, and not its neighbour."""
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, most_bytes) / total_bytes), device)


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    """Have what was computed, not loaded, on the device; what is still on meta comes with a unit."""
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        if not buffer.is_meta:
            path, _, own = name.rpartition(".")
            setattr(model.get_submodule(path), own, buffer.to(device))


def _threads(sharing: int) -> int:
    """Of the threads that torch has, a stage's part where so many stages of its group share the machine's cores."""
    return min(torch.get_num_threads(), max(1, len(os.sched_getaffinity(0)) // sharing))


def crewed(pulse: Felt, device: torch.device, threads: int) -> Felt:
    """The same, with up to so many threads for each step: as many as a CPU's cores give. A GPU's steps need none."""
    return pulse if threads == 1 or device.type != "cpu" else Crew(pulse, ThreadChoice(threads))


class _Stage:
    """One stage of one group, from the order to its end."""

    def __init__(
        self, channel: Channel, server: RequestServer, build: Build, device: torch.device, memory: NodeMemory | None
    ) -> None:
        self._channel, self._server, self._order, self._secret = channel, server, build.order, build.secret
        self._tls = build.tls
        self._ask = (lambda rows: self.tell(RowsWanted(rows))) if build.rows_first else None
        self._device = device
        _limit_memory(device, build.order.reserve_bytes - build.order.outside_bytes)
        self._memory = memory
        tier = DeviceTier(build.order.reserve_bytes, memory.copy if memory is not None else None)
        self._units = UnitsInPlace(self, tier) if memory is None else UnitsByCopy(self, tier, memory)
        self._where = f"{STAGE}{build.order.rank}"
        self._model: StageModel | None = None
        self._built = threading.Event()
        self._assigning = threading.Lock()
        self._early: list[tuple[UnitIndex, Tensors]] = []

    def run(self) -> None:
        """Form, serve, end. Whatever goes wrong is reported to the agent and ends the process."""
        threading.Thread(target=self._take_units, name="units", daemon=True).start()
        try:
            self._serve()
        except Exception as error:
            _log.exception("%s of group %s broke", self._where, self._order.group)
            self._break(f"{type(error).__name__}: {error}")

    def _serve(self) -> None:
        order = self._order
        threads = _threads(order.sharing)
        torch.set_num_threads(threads)
        started_s = time.monotonic()
        hello = Hello(order.group, order.rendezvous_secret)
        tls = self._tls.client() if self._tls is not None else None
        store = Meeting(order.rendezvous_host, order.rendezvous_port, hello, order.timeout_s, tls)
        wire = join(store, order.rank, order.degree, self._device, order.timeout_s)
        dtype = getattr(torch, order.dtype)
        config = model_config(json.loads(order.config_json))
        neighbours = None
        if order.degree > 1:
            neighbours = Neighbours(order.rank, order.degree, config.hidden_size, dtype, wire)
            neighbours.connect(order.timeout_s, self._break)
        joined_s = time.monotonic()
        pipeline, model = build_pipeline(config, dtype, order.bounds, self._wait_for_unit, self._ask)
        _move_buffers(model, self._device)
        cache, acceleration = means(pipeline, model, order.kv_tokens, self._device)
        self._use(model)
        self._pace = Pace(self._device)
        self._pulse = Pulse(self._beat, self._break, order.timeout_s, self._pace)
        model.on_module = self._pulse.layer
        pulse = crewed(self._pulse, self._device, threads)
        shelf = Shelf(order.kv_tokens)
        chooser = chooser_on(self._device)
        worker = Worker(
            pipeline, model, cache, self.tell_phase, pulse, acceleration, chooser, shelf, lambda s: self.tell(Quiet(s))
        )
        door = KvDoor(cache, shelf, self._device, model.first_layer, model.end_layer, worker.exports, tls)
        tls = self._tls.server() if self._tls is not None else None
        hello = Hello(order.group, self._secret)
        driver = None
        if model.first:
            alive_every_s = max(order.timeout_s / 4, 1.0)
            limits = StepLimits() if self._device.type == "cpu" else GPU_LIMITS
            batching = Batching(order.kv_tokens, order.degree, renewal_border(config), limits)
            fault = partial(find_fault, vocabulary=config.vocab_size, positions=learned_positions(config))
            driver = Driver(worker, neighbours, batching, self._server.emit, alive_every_s, fault, self.tell_phase)
            self._server.serve(hello, driver.hear, tls, lambda count: self.tell(Callers(count)), door.talk)
        else:
            self._server.serve(hello, None, tls, talk_of_kv=door.talk)
        self.tell(
            Formed((
                timed_phase("join group", self._where, started_s, joined_s),
                timed_phase(BUILD_SKELETON, self._where, joined_s),
            ))
        )  # fmt: skip
        if driver is not None:
            driver.run()
        else:
            assert neighbours is not None
            follow(worker, neighbours, model.last)

    def tell_phase(self, name: str, started_s: float, size_bytes: int = 0) -> None:
        """Report a part of the cold start that ends now."""
        self.tell(PhaseDone(timed_phase(name, self._where, started_s, size_bytes=size_bytes)))

    def _beat(self) -> None:
        paces = self._pace.take()
        self.tell(Beat(paces.decode_s, paces.prefill_s_per_token))

    def _break(self, cause: str) -> NoReturn:
        self.tell(Broken(f"{self._where}: {cause}"))
        os._exit(1)

    def tell(self, message: object) -> None:
        """Tell the agent."""
        try:
            self._channel.send(message)
        except OSError:
            os._exit(1)  # the agent is gone; so is the reason to be

    def _wait_for_unit(self, unit: str, gate: Gate) -> None:
        started_s = time.monotonic()
        with self._pulse.waiting():
            gate.wait(f"unit {unit}", self._order.timeout_s)
        self.tell_phase(f"{WAIT}{unit}", started_s)

    def _take_units(self) -> None:
        """Units come in any order, also before the skeleton stands; the end of the channel is the end of the process."""
        try:
            while True:
                message, fd = self._channel.receive()
                if isinstance(message, UnitHere):
                    self._units.take(message, fd)
                elif isinstance(message, PoolHere | PoolReal):
                    _hear(self._memory, message, fd)
                elif isinstance(message, RowsHere) and self._model is not None:
                    self._model.take_rows(message.rows, message.data)
        except EOFError:
            os._exit(0)
        except FAULTS as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """A unit could not be used: the end of the process."""
        self._break(f"a unit could not be used: {error}")

    def wait_until_built(self) -> None:
        """Until a unit that is assigned is used at once. StageFailed if that takes the order's time."""
        if not self._built.wait(self._order.timeout_s):
            raise StageFailed("the skeleton was not built in time")

    def assign(self, unit: UnitIndex, tensors: Tensors) -> None:
        """Use the unit's tensors from now on, or as soon as the skeleton is built."""
        with self._assigning:
            if self._model is None:
                self._early.append((unit, tensors))
            else:
                self._assign(self._model, unit, tensors)

    def _use(self, model: StageModel) -> None:
        """The skeleton is built: what came before it is used, in order."""
        with self._assigning:
            self._model = model
            for unit, tensors in self._early:
                self._assign(model, unit, tensors)
            self._early.clear()
        self._built.set()

    def _assign(self, model: StageModel, unit: UnitIndex, tensors: Tensors) -> None:
        started_s = time.monotonic()
        model.assign(unit.name, tensors)
        self.tell_phase(f"{ASSIGN}{unit.name}", started_s, unit.size_bytes)
