"""Lines between stages are opened behind: nothing waits for them but the first hidden states, and nothing for ever."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from cluster.errors import StageFailed
from cluster.stage.joining import membership
from cluster.stage.joining.hop import Header, Neighbours, Op
from cluster.stage.joining.lines import Lines
from cluster.stage.steps import Segment
from tests.cluster.line_stages import TIMEOUT_S

CPU = torch.device("cpu")
STEP = Header(Op.STEP, (Segment(0, 1, 0, True, 64, 1),))


class Told:
    """What is told of lines that fail."""

    def __init__(self) -> None:
        self.causes: list[str] = []
        self.heard = threading.Event()

    def __call__(self, cause: str) -> None:
        self.causes.append(cause)
        self.heard.set()


def _fail() -> None:
    raise RuntimeError("ncclRemoteError")


def test_whoever_waits_goes_on_when_they_are_open() -> None:
    may, told = threading.Event(), Told()
    lines = Lines(lambda: may.wait(TIMEOUT_S) and None, TIMEOUT_S, told)
    may.set()
    lines.wait()
    lines.wait()
    assert told.causes == []


def test_those_that_cannot_be_opened_are_told_of_though_nobody_waits() -> None:
    told = Told()
    lines = Lines(_fail, TIMEOUT_S, told)
    assert told.heard.wait(TIMEOUT_S)
    assert told.causes == ["the lines to its neighbours cannot be opened: ncclRemoteError"]
    with pytest.raises(StageFailed, match="ncclRemoteError"):
        lines.wait()


def test_those_that_do_not_open_in_time_are_told_of_and_waited_for_no_longer() -> None:
    """NCCL waits for a neighbour as long as it does not come; that thread cannot be ended."""
    told, never = Told(), threading.Event()
    lines = Lines(lambda: never.wait(TIMEOUT_S) and None, 0.05, told)
    with pytest.raises(StageFailed, match="not open after"):
        lines.wait()
    assert told.heard.wait(TIMEOUT_S)
    assert len(told.causes) == 1
    never.set()


def test_only_hidden_states_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were opened before a stage built its skeleton, and the group was formed later by as long."""
    sent: list[tuple[int, ...]] = []
    monkeypatch.setattr(Neighbours, "_send", lambda _self, tensor: sent.append(tuple(tensor.shape)))
    may, told = threading.Event(), Told()
    neighbours = Neighbours(0, 2, 4, torch.float32, CPU)
    neighbours.connect(TIMEOUT_S, told, lambda: may.wait(TIMEOUT_S) and None)
    neighbours.send(Header(Op.ALIVE))
    assert len(sent) == 1
    hop = threading.Thread(target=neighbours.send, args=(STEP, torch.zeros(1, 1, 4)))
    hop.start()
    hop.join(0.2)
    assert hop.is_alive()
    assert (1, 1, 4) not in sent
    may.set()
    hop.join(TIMEOUT_S)
    assert sent[-1] == (1, 1, 4)


def test_hidden_states_that_come_wait_for_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    first = torch.zeros(3 + 56, dtype=torch.int64)
    first[:10] = torch.tensor([Op.STEP, 7, 0, 0, 1, 0, 1, 64, 1, 0])

    def recv(tensor: torch.Tensor, _source: int) -> None:
        assert tensor.dtype is torch.int64, "hidden states came before there was a line"
        tensor.copy_(first)

    monkeypatch.setattr("cluster.stage.joining.hop.comm.recv", recv)
    neighbours = Neighbours(1, 2, 4, torch.float32, CPU)
    neighbours.connect(TIMEOUT_S, Told(), _fail)
    with pytest.raises(StageFailed, match="ncclRemoteError"):
        neighbours.receive()


def test_on_a_cpu_there_is_nothing_to_open() -> None:
    neighbours = Neighbours(0, 2, 4, torch.float32, CPU)
    neighbours.connect(TIMEOUT_S, Told())
    neighbours._wait_for_lines()


def _run(folder: Path, degree: int, dead: int = -1) -> Sequence[str]:
    command = [sys.executable, "-m", "tests.cluster.line_stages"]
    env = {**os.environ, "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    stages = [
        subprocess.Popen(
            [*command, str(rank), str(degree), str(folder / "store"), str(dead)], stdout=subprocess.PIPE, text=True, env=env
        )
        for rank in range(degree)
    ]  # fmt: skip
    try:
        return [stage.communicate(timeout=TIMEOUT_S + 30)[0].strip() for stage in stages]
    finally:
        for stage in stages:
            stage.kill()
            stage.wait()


def test_all_stages_open_theirs_whoever_is_first(tmp_path: Path) -> None:
    assert [told.splitlines()[-1] for told in _run(tmp_path, 3)] == ["open"] * 3


def test_a_stage_whose_neighbour_is_dead_learns_it_here(tmp_path: Path) -> None:
    told = _run(tmp_path, 2, dead=0)
    assert "the lines to its neighbours cannot be opened" in told[1]


@pytest.mark.parametrize("gpus", [("a", "b"), ("a", "a")])
def test_where_hidden_states_go_over_nccl_its_watchdog_ends_the_process_and_cleans_nothing_up(
    gpus: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backends: list[str] = []
    for name in membership._UNTIDY:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RANK", "")
    monkeypatch.setenv("WORLD_SIZE", "")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_told: backends.append(backend))
    monkeypatch.setattr(membership.deepspeed, "init_distributed", lambda **_told: None)
    monkeypatch.setattr(membership, "_devices", lambda *_of: gpus)
    device = torch.device("cuda", 0)
    alone = len(set(gpus)) == 2
    assert membership.join(HashStore(), 0, 2, device, 1.0) == (device if alone else CPU)
    assert backends == ["cpu:gloo,cuda:nccl" if alone else "gloo"]
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == ("3" if alone else "")
