"""A node's GPU: what its processes take is measured and told, and what stages may reserve is what is left beside them."""

import ctypes
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import NoDevice
from cluster.model_facts import model_config, widths_of
from cluster.node.accelerator import Accelerator, Gpu, Gpus, choose
from cluster.node.device_memory import ASSUMED_CONTEXT_BYTES, DeviceMemory
from cluster.stage import main, steps
from cluster.stage.attending import paged, paged_attention
from cluster.stage.attending.paged import PagedCache
from cluster.stage.choosing import batch as choosing
from cluster.stage.context_meter import ContextMeter, GpuUse, look_at_gpus
from cluster.stage.stepping import static_steps
from schedules.facts import View, Widths
from schedules.ledgers.memory import Memory
from schedules.placing import workspace
from schedules.placing.policies.planned import Planned
from tests.schedules.models import model_of, node_of, question_of
from tests.told import objectives_of

MIB, GIB = 1 << 20, 1 << 30
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
UUID = "5ca1ab1e-0000"


# ---- what is offered


def test_on_a_cpu_all_of_the_budget_is_offered_whatever_processes_wait() -> None:
    memory = DeviceMemory("cpu", 4 * GIB, 3)
    assert not memory.hear(552 * MIB)
    assert (memory.offered_bytes, memory.context_bytes) == (4 * GIB, 0)


def test_processes_that_wait_stand_beside_what_is_offered_by_what_they_have_told() -> None:
    memory = DeviceMemory("cuda", 80 * GIB, 2)
    assert memory.offered_bytes == 80 * GIB - 2 * ASSUMED_CONTEXT_BYTES
    assert memory.hear(552 * MIB - 5)
    assert (memory.offered_bytes, memory.context_bytes) == (80 * GIB - 2 * 552 * MIB, 552 * MIB)


def test_who_cannot_tell_changes_nothing_and_neither_does_one_that_was_disturbed() -> None:
    """A neighbour loaded a model while one of them was made, so that it seemed to take 16 GiB."""
    memory = DeviceMemory("cuda", 80 * GIB, 1)
    assert not memory.hear(0)
    assert memory.context_bytes == ASSUMED_CONTEXT_BYTES
    for told in (552 * MIB, 552 * MIB, 16 * GIB):
        memory.hear(told)
    assert memory.context_bytes == 552 * MIB


def test_a_pool_that_keeps_none_still_has_one_being_made() -> None:
    assert DeviceMemory("cuda", 80 * GIB, 0).offered_bytes == 80 * GIB - ASSUMED_CONTEXT_BYTES


def test_a_gpu_too_small_for_those_that_wait_offers_nothing() -> None:
    assert DeviceMemory("cuda", GIB, 4).offered_bytes == 0


@given(
    budget_bytes=st.integers(0, 30 * GIB),
    waiting=st.integers(0, 4),
    told=st.lists(st.integers(0, 2 * GIB), max_size=12),
    sizes=st.lists(st.integers(1, 4 * GIB), min_size=1, max_size=8),
)
def test_whatever_stages_come_contexts_and_reservations_fit_on_the_gpu(
    budget_bytes: int, waiting: int, told: list[int], sizes: list[int]
) -> None:
    """As a node offers it, placement asks for it, and a process is limited to it."""
    device = DeviceMemory("cuda", budget_bytes, waiting)
    for context_bytes in told:
        device.hear(context_bytes)
    node = node_of("node", device.offered_bytes)
    node = replace(node, gpu="gpu", context_bytes=device.context_bytes)
    widths, memory, stages = Widths(256, 512, 512, 1000, 2), Memory(), []
    for number, size_bytes in enumerate(sizes):
        model = replace(model_of([size_bytes] * 3, kv_bytes_per_token=100), widths=widths)
        goal = objectives_of(max_degree=1, kv_tokens=64)
        chosen = Planned().decide(question_of(model, View((node,)), goal, memory=memory)).chosen
        if chosen is not None and chosen.placement is not None:
            memory.promise(f"group {number}", chosen.placement.reserved_bytes)
            stages += chosen.placement.stages
    contexts = max(waiting, 1) + len(stages)
    limits = [stage.reserve_bytes - stage.outside_bytes for stage in stages]
    if stages:
        assert contexts * device.context_bytes + sum(limits) <= budget_bytes


def test_the_workspace_is_for_steps_as_large_as_they_are_made() -> None:
    limits, sizes = steps.GPU_LIMITS, static_steps.SIZES
    assert max(limits.prefill_tokens_alone, limits.prefill_tokens + limits.rows) == workspace.PREFILL_TOKENS_ALONE
    assert limits.rows == workspace.MAX_ROWS
    assert (len(sizes), sum(sizes)) == (workspace.GRAPHS, workspace.GRAPH_ROWS)
    assert paged.PAGE_TOKENS == workspace.PAGE_TOKENS
    assert paged_attention._MOST_SCORES == workspace.SCORES
    assert choosing.working_bytes(1, 1) == workspace.SAMPLING_BYTES
    assert inspect.signature(choosing.Chooser).parameters["ledger_bytes"].default == workspace.PENALTIES_BYTES
    assert PagedCache(1, 100, CPU).arena.tokens == workspace.pages(100) * workspace.PAGE_TOKENS


@pytest.mark.parametrize(
    ("config", "widths"),
    [
        ({"model_type": "gemma2", "intermediate_size": 96, "head_dim": 16}, Widths(64, 96, (4 + 2 * 2) * 16, 50, 2, True)),
        ({"model_type": "qwen3", "intermediate_size": 96, "head_dim": 260}, Widths(64, 96, (4 + 2 * 2) * 260, 50, 2, True)),
        ({"model_type": "qwen3", "intermediate_size": 96, "head_dim": 20}, Widths(64, 96, (4 + 2 * 2) * 20, 50, 2, True)),
        ({"model_type": "llama", "intermediate_size": 96}, Widths(64, 96, (4 + 2 * 2) * 16, 50, 2)),
        ({"model_type": "qwen3", "intermediate_size": 96, "head_dim": 32}, Widths(64, 96, (4 + 2 * 2) * 32, 50, 2)),
        ({"model_type": "gpt2"}, Widths(64, 256, 3 * 4 * 16, 50, 2)),
        ({"model_type": "mixtral", "intermediate_size": 96, "num_experts_per_tok": 2}, Widths(64, 192, 128, 50, 2)),
        (
            {"model_type": "qwen3_moe", "intermediate_size": 96, "moe_intermediate_size": 32, "num_experts_per_tok": 8,
             "head_dim": 16},
            Widths(64, 256, 128, 50, 2),
        ),
    ],
)  # fmt: skip
def test_the_widths_of_a_model_are_read_off_its_configuration(config: Mapping[str, object], widths: Widths) -> None:
    common = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}
    common |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if config["model_type"] == "gpt2":
        del common["num_key_value_heads"]
    assert widths_of(model_config({**common, **config}), "bfloat16") == widths
    in_float32 = replace(widths, number_bytes=4, plain_attention=True)
    assert widths_of(model_config({**common, **config}), "float32") == in_float32


# ---- which GPU, and how much of it


def test_a_node_has_all_of_its_gpu_but_what_the_driver_keeps_unless_it_shall_have_less() -> None:
    found = Gpus((Gpu("large", 80 * GIB, "a"), Gpu("small", 24 * GIB, "b")))
    accelerator = choose("cuda:1", found)
    assert (accelerator.kind, accelerator.index, accelerator.uuid) == ("cuda", 1, "b")
    assert 23 * GIB < accelerator.budget(0, 1) < 24 * GIB
    assert accelerator.budget(8 * GIB, 1) == 8 * GIB
    assert accelerator.budget(80 * GIB, 1) == accelerator.budget(0, 1)


def test_nodes_that_share_a_gpu_have_no_more_than_all_of_it_together() -> None:
    """`firsttoken up` starts four, and each offered nine tenths of it."""
    accelerator = choose("cuda", Gpus((Gpu("large", 80 * GIB, "a"),)))
    assert 4 * accelerator.budget(0, 4) <= accelerator.budget(0, 1) < 4 * accelerator.budget(0, 4) + 4
    assert accelerator.budget(8 * GIB, 4) == 8 * GIB
    assert choose("auto", Gpus(())).budget(0, 4) == 4 * GIB


def test_on_a_cpu_the_account_is_as_large_as_it_is_said_to_be() -> None:
    accelerator = choose("auto", Gpus(()))
    assert accelerator == Accelerator("cpu")
    assert (accelerator.budget(0, 1), accelerator.budget(80 * GIB, 1)) == (4 * GIB, 80 * GIB)
    with pytest.raises(NoDevice, match="no CUDA device"):
        choose("cuda", Gpus((), "it has none"))


# ---- what a process takes


class Looks:
    """What the driver tells, one answer after the other; and torch, which says which GPU is the process's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, GpuUse]) -> None:
        self._answers = list(answers)
        self.emptied = 0
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid=UUID))
        monkeypatch.setattr(torch.cuda, "empty_cache", self._empty)

    def __call__(self) -> dict[str, GpuUse]:
        return self._answers.pop(0)

    def _empty(self) -> None:
        self.emptied += 1


def test_a_process_that_the_driver_knows_by_its_number_takes_what_that_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a neighbour has loaded meanwhile."""
    looks = Looks(monkeypatch, {UUID: GpuUse(100, None)}, {UUID: GpuUse(90_000, 552)})
    assert ContextMeter(CUDA, looks).taken_bytes() == 552
    assert looks.emptied == 1, "what it only keeps for later is given back before"


def test_in_a_container_it_takes_what_there_is_more_of_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"other": GpuUse(7, None)}
    looks = Looks(monkeypatch, {UUID: GpuUse(100, None), **others}, {UUID: GpuUse(652, None), **others})
    assert ContextMeter(CUDA, looks).taken_bytes() == 552


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({}, {UUID: GpuUse(9, None)}),
        ({UUID: GpuUse(9, None)}, {}),
        ({UUID: GpuUse(9, None)}, {UUID: GpuUse(5, None)}),
    ],
)
def test_what_cannot_be_told_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, GpuUse], after: dict[str, GpuUse]
) -> None:
    assert ContextMeter(CUDA, Looks(monkeypatch, before, after)).taken_bytes() == 0


def test_on_a_cpu_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    assert ContextMeter(CPU, looks).taken_bytes() == 0
    assert looks.emptied == 0


_NVML = {
    "nvmlInit_v2": "_init",
    "nvmlShutdown": "_shut_down",
    "nvmlDeviceGetCount_v2": "_count",
    "nvmlDeviceGetHandleByIndex_v2": "_handle",
    "nvmlDeviceGetUUID": "_name",
    "nvmlDeviceGetMemoryInfo": "_memory",
    "nvmlDeviceGetComputeRunningProcesses_v3": "_running",
}


@dataclass
class Nvml:
    """The management library of a machine with two GPUs, as its functions are called; those named in `fails` fail."""

    processes: Mapping[int, int]
    fails: str = ""
    open: int = 0

    def __getattr__(self, name: str) -> object:
        def call(*given: object) -> int:
            if name == self.fails:
                return 999
            found = getattr(self, _NVML[name])(*(getattr(each, "_obj", each) for each in given))
            return int(found or 0)

        return call

    def _init(self) -> None:
        self.open += 1

    def _shut_down(self) -> None:
        self.open -= 1

    def _count(self, count: ctypes.c_uint) -> None:
        count.value = 2

    def _handle(self, index: int, gpu: ctypes.c_void_p) -> None:
        gpu.value = index + 1

    def _name(self, gpu: ctypes.c_void_p, name: "ctypes.Array[ctypes.c_char]", size: int) -> None:
        assert size == len(name)
        name.value = f"GPU-uuid {gpu.value}".encode()

    def _memory(self, gpu: ctypes.c_void_p, memory: object) -> None:
        assert gpu.value is not None
        memory.total, memory.free, memory.used = 80 * GIB, 80 * GIB - gpu.value, gpu.value  # type: ignore[attr-defined]

    def _running(self, _gpu: object, count: ctypes.c_uint, found: object) -> None:
        assert count.value >= len(self.processes)
        count.value = len(self.processes)
        for index, (pid, used) in enumerate(self.processes.items()):
            found[index].pid, found[index].used = pid, used  # type: ignore[index]


def test_the_driver_tells_of_each_gpu_by_the_name_that_torch_gives_it() -> None:
    nvml = Nvml({1: 5, os.getpid(): 552 * MIB})
    assert look_at_gpus(lambda: nvml) == {"uuid 1": GpuUse(1, 552 * MIB), "uuid 2": GpuUse(2, 552 * MIB)}
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("nvml", "own"),
    [
        (Nvml({1: 5}), None),
        (Nvml({os.getpid(): 2**64 - 1}), None),
        (Nvml({os.getpid(): 5}, fails="nvmlDeviceGetComputeRunningProcesses_v3"), None),
    ],
)
def test_of_a_process_that_the_driver_does_not_know_only_the_sum_is_known(nvml: Nvml, own: int | None) -> None:
    assert look_at_gpus(lambda: nvml) == {"uuid 1": GpuUse(1, own), "uuid 2": GpuUse(2, own)}


@pytest.mark.parametrize(
    "fails", ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"]
)
def test_a_library_that_fails_tells_nothing(fails: str) -> None:
    assert look_at_gpus(lambda: Nvml({}, fails)) == {}


def test_without_the_library_nothing_is_told() -> None:
    def load() -> object:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    assert look_at_gpus(load) == {}


# ---- what a process may ask for


@pytest.mark.parametrize(("most_bytes", "fraction"), [(20 * GIB, 0.25), (80 * GIB, 1.0), (90 * GIB, 1.0), (-1, 0.0)])
def test_a_process_may_ask_for_what_it_has_reserved_for_itself(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int, fraction: float
) -> None:
    limits: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    main._limit_memory(CUDA, most_bytes)
    main._limit_memory(CPU, most_bytes)
    assert limits == [(fraction, CUDA)]
