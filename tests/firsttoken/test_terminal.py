"""What a person sees."""

import io
from collections.abc import Sequence

from rich.console import Console

from firsttoken.frontend import ColdStart, PhaseOfStart
from firsttoken.local import Phase, Step
from firsttoken.terminal import Steps, Waiting, ledger_table, summarise


def shown(steps: Sequence[Step], *, terminal: bool) -> str:
    """What the steps leave on a console."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with Steps(console) as report:
        for step in steps:
            report(step)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def step(component: str, phase: Phase, seconds: float = 0.0, detail: str = "") -> Step:
    """A step."""
    return Step(component, phase, seconds, detail)


def fetch(unit: str, where: str, start_s: float, end_s: float, size_bytes: int) -> PhaseOfStart:
    """A unit's way into a node."""
    return PhaseOfStart(f"fetch {unit}", where, start_s, end_s, size_bytes)


def test_without_a_terminal_each_step_is_a_line() -> None:
    steps = [step("node-1", "starting"), step("node-1", "ready", 2.5), step("node-1", "restarting", 0, "exit status 3")]
    assert shown(steps, terminal=False).splitlines() == [
        "node-1 ready after 2.5 s",
        "node-1 ended (exit status 3): starting it again",
    ]


def test_on_a_terminal_each_component_is_a_line_that_changes() -> None:
    text = shown([step("node-1", "starting"), step("prefect", "starting"), step("node-1", "ready", 2.5)], terminal=True)
    last = text.rsplit("\r", 1)[-1]
    assert "✓ node-1" in last
    assert "ready after 2.5 s" in last
    assert "prefect" in last


def test_when_all_have_come_up_the_lines_stay_as_they_are() -> None:
    """A later restart draws lines of its own, and nothing keeps spinning until then."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Steps(console) as report:
        report(step("node-1", "starting"))
        report(step("node-1", "ready", 1.0))
        assert not console._live_stack


def test_a_note_is_not_for_a_file() -> None:
    console = Console(file=io.StringIO())
    with Waiting(console) as waiting:
        waiting.note("starting")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_units_fetched_in_one_place_are_one_row() -> None:
    rows = summarise(
        [
            fetch("layer.0000", "node-1 from ssd", 0.2, 0.6, 100),
            PhaseOfStart("decide", "front end", 0.05, 0.1, 0),
            fetch("embed", "node-1 from ssd", 0.1, 0.5, 300),
            fetch("head", "node-2 from ssd", 0.3, 0.4, 50),
        ]
    )
    assert rows == [
        PhaseOfStart("decide", "front end", 0.05, 0.1, 0),
        PhaseOfStart("fetch 2 units", "node-1 from ssd", 0.1, 0.6, 400),
        fetch("head", "node-2 from ssd", 0.3, 0.4, 50),
    ]


def test_the_ledger_shows_where_the_time_went() -> None:
    start = ColdStart("tiny", 2, ("node-1",), 0.61, (fetch("embed", "node-1", 0.1, 0.6, 5_000_000),))
    console = Console(file=io.StringIO(), width=100)
    console.print(ledger_table(start))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "degree 2, first token after 0.61 s" in text
    assert "5.0 MB" in text
    assert "10.0 MB/s" in text


def test_what_moved_nothing_has_no_rate() -> None:
    assert PhaseOfStart("decide", "front end", 0.1, 0.2, 0).bytes_per_s is None
