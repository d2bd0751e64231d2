"""What the history holds, as what a world is fitted to."""

from pathlib import Path

from cluster.wire.phases import Phase
from schedules.fitting.seen import Fetch, FirstStep
from schedules.traces.happened import Asked
from serving.cold_start import ColdStart
from serving.history.happened import began, happened
from serving.history.history import History
from serving.history.tables import Arrival

START = ColdStart(
    "llama", "g1", ("node-1", "node-2"), 1000.0, 3.0,
    (
        Phase("receive and tokenise", "front end", 1000.0, 1000.1),
        Phase("wait for room", "front end", 1000.1, 1000.6),
        Phase("decide", "front end", 1000.6, 1000.7),
        Phase("take process", "node-1", 1000.71, 1000.72),
        Phase("fetch embed", "node-1 from remote", 1000.72, 1001.0, 7),
        Phase("fetch layer.0000", "node from-1 from ssd", 1000.73, 1001.1, 8),
        Phase("fetch head", "node-2 from peer node-1", 1000.74, 1001.2, 9),
        Phase("build skeleton", "stage 0", 1000.8, 1000.9),
        Phase("build skeleton", "stage 1", 1000.8, 1000.95),
        Phase("first step", "stage 0", 1001.0, 1001.5),
        Phase("wait for layer.0000", "stage 0", 1001.1, 1001.2),
        Phase("wait for rows of embed", "stage 0", 1000.9, 1001.1),
        Phase("first step", "stage 1", 1001.5, 1001.6),
    ),
    {"ttft_s": 2.5},
)  # fmt: skip


def test_a_cold_start_is_read_by_its_phases() -> None:
    start = began(START)
    assert (start.ordered_s, start.formed_s, start.predicted_s, start.one_clock) == (1000.7, 1000.95, 2.5, True)
    assert round(start.waited_s, 6) == 0.5
    assert start.fetches == (
        Fetch("node-1", "embed", "remote", 7, 1000.72, 1001.0),
        Fetch("node from-1", "layer.0000", "ssd", 8, 1000.73, 1001.1),
        Fetch("node-2", "head", "peer", 9, 1000.74, 1001.2),
    )
    steps = [FirstStep(step.node, round(step.computed_s, 6)) for step in start.steps]
    assert steps == [FirstStep("node-1", 0.3), FirstStep("node-2", 0.1)]


def test_a_start_of_which_nodes_told_nothing_says_nothing() -> None:
    start = began(ColdStart("llama", "g1", ("node-1",), 1000.0, 3.0, ()))
    assert (start.ordered_s, start.formed_s, start.fetches, start.steps) == (1000.0, None, (), ())


async def test_all_of_a_time_is_found_and_nothing_else(tmp_path: Path) -> None:
    history = History(f"sqlite:///{tmp_path}/history.db", keep_days=1e6)
    history.start()
    for at_s, outcome in ((1000.0, "served"), (1001.0, "refused"), (2000.0, "served")):
        history.add_arrival(Arrival("llama", at_s, 3, 16, 7, outcome, 0.5, 1.5, True))
    history.add_start(START)
    await history.close()
    read = History(f"sqlite:///{tmp_path}/history.db", keep_days=1e6)
    found = await happened(read, 1000.0, 2000.0)
    nothing = await happened(read, 1000.5, 1001.0)
    await read.close()
    assert found.starts == (began(START),)
    assert found.asked[0] == Asked("llama", 1000.0, 3, 16, 7, False, 0.5, 1.5, True)
    assert [each.refused for each in found.asked] == [False, True]
    assert (nothing.starts, nothing.asked) == ((), ())
