"""A stage process: waits ready in its node's pool, becomes one stage of one group, and ends with it."""

import errno
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import torch
from torch import nn
from torch.distributed import HashStore

from cluster.errors import StageFailed
from cluster.model_facts import learned_positions, model_config, renewal_border
from cluster.stage.admission import find_fault
from cluster.stage.batching import Batching, Segment
from cluster.stage.compute_probe import measure_products
from cluster.stage.context_meter import ContextMeter
from cluster.stage.engine import Driver, Worker, follow
from cluster.stage.gate import Gate
from cluster.stage.hop import Neighbours
from cluster.stage.kv import KvCache
from cluster.stage.meeting import Meeting
from cluster.stage.membership import join, leave
from cluster.stage.model import StageModel, build_pipeline
from cluster.stage.pace import Pace
from cluster.stage.pulse import Pulse
from cluster.stage.request_server import RequestServer
from cluster.wire.codec import Channel
from cluster.wire.hello import Hello
from cluster.wire.phases import BUILD_SKELETON, COPY, timed_phase
from cluster.wire.stages import (
    Beat,
    Broken,
    Build,
    Callers,
    Formed,
    Idle,
    PhaseDone,
    RowsHere,
    RowsWanted,
    Taken,
    UnitCopied,
    UnitHere,
)
from schedules.rates import formed
from storage_tiers.errors import StorageError
from storage_tiers.tiers.device import DeviceTier
from storage_tiers.tiers.shared_memory import map_runs, populate

_log = logging.getLogger(__name__)
_WARM_UP_CONFIG = {
    "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


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
    meter = ContextMeter(device)
    _warm_up(device, [torch.float32, torch.bfloat16])
    rates = _measure(device) if measure else {}
    try:
        channel.send(Idle(os.getpid(), server.port, rates, meter.taken_bytes()))
        message, _ = channel.receive()
        channel.send(Taken())
    except (EOFError, OSError):
        return
    if isinstance(message, Build):
        _Stage(channel, server, message, device).run()


def _warm_up(device: torch.device, dtypes: Sequence[torch.dtype]) -> None:
    """Go once through everything that is slower the first time, a kernel of each dtype too, with models of 64 dimensions."""
    join(HashStore(), 0, 1, device, timeout_s=60.0)
    for dtype in dtypes:
        pipeline, model = build_pipeline(model_config(_WARM_UP_CONFIG), dtype, (0, 1), lambda _unit, _gate: None)
        pipeline.to_empty(device=device)
        for parameter in pipeline.parameters():
            parameter.data.zero_()
        cache = KvCache(1, 64, device)
        with torch.inference_mode():
            for segment in (Segment(1, 2, 0, True, 64), Segment(1, 1, 2, True, 64)):
                model.turn_to(cache.plan([segment]))
                pipeline(torch.ones(1, segment.tokens, dtype=torch.int64, device=device)).argmax(-1).tolist()
    leave()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _measure(device: torch.device) -> dict[str, float]:
    """What a stage needs to be formed and to compute, as far as it can be told without a model."""
    since_s = time.perf_counter()
    _warm_up(device, [torch.float32])  # what it does is now as slow as it will be
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


class _Stage:
    """One stage of one group, from the order to its end."""

    def __init__(self, channel: Channel, server: RequestServer, build: Build, device: torch.device) -> None:
        self._channel, self._server, self._order, self._secret = channel, server, build.order, build.secret
        self._tls = build.tls
        self._ask = (lambda rows: self._tell(RowsWanted(rows))) if build.rows_first else None
        self._device = device
        _limit_memory(device, build.order.reserve_bytes - build.order.outside_bytes)
        self._tier = DeviceTier(device, build.order.reserve_bytes)
        self._where = f"stage {build.order.rank}"
        self._model: StageModel | None = None
        self._built = threading.Event()

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
        torch.set_num_threads(_threads(order.sharing))
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
            neighbours.connect()
        joined_s = time.monotonic()
        pipeline, model = build_pipeline(config, dtype, order.bounds, self._wait_for_unit, self._ask)
        _move_buffers(model, self._device)
        self._model = model
        self._built.set()
        cache = KvCache(model.layers, order.kv_tokens, self._device)
        self._pace = Pace(self._device)
        self._pulse = Pulse(self._beat, self._break, order.timeout_s, self._pace)
        model.on_module = self._pulse.layer
        worker = Worker(pipeline, model, cache, self.tell_phase, self._pulse)
        driver = None
        if model.first:
            alive_every_s = max(order.timeout_s / 4, 1.0)
            batching = Batching(order.kv_tokens, order.degree, renewal_border(config))
            fault = partial(find_fault, vocabulary=config.vocab_size, positions=learned_positions(config))
            driver = Driver(worker, neighbours, batching, self._server.emit, alive_every_s, fault, self.tell_phase)
            tls = self._tls.server() if self._tls is not None else None
            hello, tell = Hello(order.group, self._secret), lambda count: self._tell(Callers(count))
            self._server.serve(hello, driver.inbox.put, tls, tell)
        self._tell(
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
        self._tell(PhaseDone(timed_phase(name, self._where, started_s, size_bytes=size_bytes)))

    def _beat(self) -> None:
        paces = self._pace.take()
        self._tell(Beat(paces.decode_s, paces.prefill_s_per_token))

    def _break(self, cause: str) -> NoReturn:
        self._tell(Broken(f"{self._where}: {cause}"))
        os._exit(1)

    def _tell(self, message: object) -> None:
        try:
            self._channel.send(message)
        except OSError:
            os._exit(1)  # the agent is gone; so is the reason to be

    def _wait_for_unit(self, unit: str, gate: Gate) -> None:
        started_s = time.monotonic()
        with self._pulse.waiting():
            gate.wait(f"unit {unit}", self._order.timeout_s)
        self.tell_phase(f"wait for {unit}", started_s)

    def _take_units(self) -> None:
        """Units come in any order, also before the skeleton stands; the end of the channel is the end of the process."""
        try:
            while True:
                message, fd = self._channel.receive()
                if isinstance(message, UnitHere):
                    if fd is None:
                        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                    self._assign(message, fd)
                elif isinstance(message, RowsHere) and self._model is not None:
                    self._model.take_rows(message.rows, message.data)
        except EOFError:
            os._exit(0)
        except (StorageError, StageFailed, OSError, RuntimeError, ValueError, KeyError) as error:
            self._break(f"a unit could not be used: {error}")

    def _assign(self, here: UnitHere, fd: int) -> None:
        unit = here.unit
        try:
            memory = map_runs(fd, here.runs)
        finally:
            os.close(fd)
        started_s = time.monotonic()
        tensors = self._tier.hold(unit, memory)
        if self._tier.copies:
            self.tell_phase(f"{COPY}{unit.name}", started_s, unit.size_bytes)
            del memory
            self._tell(UnitCopied(unit.digest))
        if not self._built.wait(self._order.timeout_s):
            raise StageFailed("the skeleton was not built in time")
        assert self._model is not None
        started_s = time.monotonic()
        self._model.assign(unit.name, tensors)
        self.tell_phase(f"assign {unit.name}", started_s, unit.size_bytes)
        if not self._tier.copies:
            populate(memory)
