"""What travels between two stages arrives as it was sent, in its order, whatever its size: two processes over gloo."""

import json
import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from cluster.stage.joining.hop import Op
from tests.cluster.hop_stages import SIZES, TIMEOUT_S, choices, extra, header


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the first stage was given, and the last."""
    folder = tmp_path_factory.mktemp("hop")
    command = [sys.executable, "-m", "tests.cluster.hop_stages"]
    env = {**os.environ, "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    stages = []
    try:
        for rank in range(2):
            with (folder / f"{rank}.out").open("wb") as out:
                stages.append(subprocess.Popen([*command, str(rank), str(folder / "store")], stdout=out, env=env))
        assert [stage.wait(TIMEOUT_S + 30) for stage in stages] == [0, 0]
    finally:
        for stage in stages:
            stage.kill()
            stage.wait()
    return [_told(folder / f"{rank}.out") for rank in range(2)]


def _told(path: Path) -> Any:
    return json.loads(path.read_text().splitlines()[-1])


def _plain(value: object) -> Any:
    return json.loads(json.dumps(value))


def test_steps_of_any_number_of_segments_arrive_with_hidden_states_and_parameters(came: list[Any]) -> None:
    steps = [hop for hop in came[1] if hop[0] == Op.STEP]
    assert steps == [
        _plain([Op.STEP, [astuple(segment) for segment in header(size).segments], [], True, extra(size).hex()])
        for size in SIZES
    ]


def test_other_orders_arrive_between_them_in_their_order(came: list[Any]) -> None:
    assert [hop[0] for hop in came[1]] == [*(op for _ in SIZES for op in (Op.STEP, Op.FORGET)), Op.ALIVE, Op.STOP]
    assert [hop[2] for hop in came[1] if hop[0] == Op.FORGET] == [list(range(size)) for size in SIZES]


def test_choices_arrive_with_the_log_probabilities_that_were_asked_for(came: list[Any]) -> None:
    assert came[0] == [_plain([astuple(choice) for choice in choices(size)]) for size in SIZES]
