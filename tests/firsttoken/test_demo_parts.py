"""Parts of the demo: its settings, words as they come, a count that is moved, cold starts side by side."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from firsttoken.demo import show
from firsttoken.demo.counting import AFTER, ORDERED_AT, Counted, count
from firsttoken.demo.ground import NETWORK_BYTES_PER_S, demo_settings
from firsttoken.demo.listening import Expecting, Heard, Words, listen
from firsttoken.errors import MoveFailed
from firsttoken.frontend import ColdStart, Expected, Frontend, PhaseOfStart, Piece
from firsttoken.local import platform
from firsttoken.settings import Settings, load_settings
from firsttoken.views.demo import comparison, expected_table, pause_table


def drawn(part: RenderableType, encoding: str = "utf-8") -> list[str]:
    """The lines that it leaves on a console."""
    kept = io.BytesIO()
    console = Console(file=io.TextIOWrapper(kept, encoding=encoding, write_through=True), width=80)
    console.print(part)
    return [line.rstrip() for line in kept.getvalue().decode(encoding).splitlines()]


def settings_of(home: Path, **environment: str) -> Settings:
    return demo_settings(load_settings(environment={"FIRSTTOKEN_HOME": str(home), **environment}))


# ---- its end


def test_a_demo_that_is_interrupted_does_not_end_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` ended with status 0 all the same. Ports and components are left out."""

    async def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(show, "published", lambda *_: None)
    monkeypatch.setattr(show, "_show", interrupted)
    monkeypatch.setattr(show, "platform", partial(platform, build=lambda *_: ()))
    console = Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        show.run_demo(load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path)}), console)
    assert isinstance(console.file, io.StringIO)
    assert "before the demo's end" in console.file.getvalue()


# ---- settings


def test_the_demo_has_only_the_store_in_common_with_what_runs_in_the_home(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, FIRSTTOKEN_MODELS='{"m": {"degree": 1}}', FIRSTTOKEN_PREWARM__MODELS="m")
    assert settings.store.url == f"file://{tmp_path}/store"
    assert settings.home == tmp_path / "demo"
    assert settings.history.url == f"sqlite:///{tmp_path}/demo/history.db"
    assert (settings.models, settings.prewarm.models, settings.prewarm.every_s, settings.backtest.cron) == (
        {},
        (),
        0,
        "",
    )
    assert (settings.node.device, settings.frontend.consolidate) == ("cpu", False)


def test_the_network_may_be_held_to_another_rate_and_there_are_at_least_two_nodes(tmp_path: Path) -> None:
    assert settings_of(tmp_path).node.network_bytes_per_s == NETWORK_BYTES_PER_S
    told = settings_of(tmp_path, FIRSTTOKEN_NODE__NETWORK_BYTES_PER_S="5MB", FIRSTTOKEN_CLUSTER__NODES="1")
    assert (told.node.network_bytes_per_s, told.cluster.nodes, told.frontend.degree) == (5_000_000, 2, 2)


# ---- words


def test_words_are_kept_whole_in_lines() -> None:
    console = Console(file=io.StringIO(), width=12)
    words = Words(console)
    for piece in ("The ca", "pital of", " Fra", "nce\nis\n\n Paris", "."):
        words.write(piece)
    words.note("--- here ---")
    words.end()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "The capital\nof France\nis\n\n--- here ---\nParis.\n"


def test_on_a_terminal_a_word_is_shown_once_it_is_whole() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    words = Words(console)
    words.write("The capital of")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "The capital"


def test_while_one_waits_a_terminal_shows_for_how_long_and_what_is_done() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
        with Expecting(console, 9.5) as expecting:
            expecting.note("cold start of m: fetching 3 of 9 MB, first token in about 2.0 s")
        assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        assert ("of about 9.5 s" in shown) is terminal
        assert ("fetching 3 of 9 MB" in shown) is terminal
        assert "first token" not in shown


def test_the_first_token_is_the_first_text() -> None:
    async def pieces() -> AsyncGenerator[Piece]:
        yield Piece(note="m is starting")
        yield Piece()
        yield Piece(text="Paris")
        yield Piece(text=".", finish_reason="stop")

    heard = asyncio.run(listen(pieces(), Console(file=io.StringIO())))
    assert (heard.text, len(heard.times_s)) == ("Paris.", 2)
    assert heard.ttft_s == heard.times_s[0] - heard.asked_s


# ---- a count that is moved

MOVE: Mapping[str, Any] = {
    "move": "m1",
    "step": "done",
    "why": "",
    "handovers": [{"heirs": [{"nodes": ["node-2"]}]}],
    "ordered_at": 10.0,
    "switching_at": 14.0,
    "done_at": 15.0,
}


class Counting(Frontend):
    """Counts to `last`; the move has ended by the time it is asked for once more, so or so."""

    def __init__(self, last: int, **ended: str) -> None:
        super().__init__("http://127.0.0.1:1", 1.0)
        self._last, self._ended, self.closed = last, ended, False

    async def complete(self, model: str, prompt: str, sampling: object) -> AsyncGenerator[Piece]:
        try:
            for number in range(9, self._last + 1):
                yield Piece(text=f" {number}")
                yield Piece(text=",")
                await asyncio.sleep(0.001)
        finally:
            self.closed = True

    async def wish(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        assert wanted["kind"] == "consolidate"
        return {**MOVE, "step": "ordered"}

    async def move(self, name: str) -> dict[str, Any]:
        return {**MOVE, **self._ended}


def test_the_count_goes_on_for_a_while_after_the_move_and_then_the_client_goes() -> None:
    frontend, console = Counting(5000), Console(file=io.StringIO(), width=80)
    counted = asyncio.run(count(frontend, console))
    assert frontend.closed
    assert counted.unbroken
    assert len(counted.heard.times_s) >= ORDERED_AT + AFTER
    assert isinstance(console.file, io.StringIO)
    assert "--- from about here node-2 alone goes on ---" in console.file.getvalue()
    assert console.file.getvalue().endswith(f"{counted.numbers[-1]},\n")


@pytest.mark.parametrize(
    ("frontend", "why"),
    [
        (lambda: Counting(40), "the answer was over after 64 tokens, before the move was"),
        (lambda: Counting(5000, step="given up", why="no room"), "move m1 was given up: no room"),
    ],
    ids=["too-short", "given-up"],
)
def test_a_count_that_is_not_moved_is_an_error(frontend: Any, why: str) -> None:
    with pytest.raises(MoveFailed, match=why):
        asyncio.run(count(frontend(), Console(file=io.StringIO())))


def counted_of(text: str, times_s: Sequence[float] = tuple(map(float, range(1, 31)))) -> Counted:
    return Counted(Heard(text, 0.0, tuple(times_s)), MOVE)


def test_a_number_that_is_lost_or_comes_twice_is_seen() -> None:
    assert counted_of(" 9, 10, 11, 1").unbroken
    for broken in (" 9, 11,", " 9, 10, 10,", " 10, 11,"):
        assert not counted_of(broken).unbroken


def test_the_pause_is_the_longest_wait_while_it_went_over() -> None:
    counted = counted_of(" 9, 10,", [1, 2, 3, 5.5, 13.5, 14.75, 15.5, 16, 16.5, 17])
    assert (counted.before, counted.pause_s) == (5, 1.25)
    assert (counted.token_s(moved=False), counted.token_s(moved=True)) == (1.5, 0.5)
    shown = drawn(pause_table(counted))
    assert " longest wait  1250 ms, when it went over" in shown
    assert " numbers       9 to 10, none lost and none twice" in shown
    assert any("which do not follow one another" in line for line in drawn(pause_table(counted_of(" 9, 11,"))))


# ---- side by side


def start(nodes: Sequence[str], ttft_s: float, predicted: Expected | None = None) -> ColdStart:
    """Each node fetches 8 MB, the last of it after the first token."""
    phases = tuple(
        phase
        for node in nodes
        for phase in (
            PhaseOfStart("fetch head", f"{node} from remote", 0.0, ttft_s / 2, 6_000_000),
            PhaseOfStart("fetch layer.0000", f"{node} from remote", 0.0, ttft_s, 2_000_000),
            PhaseOfStart("fetch embed", f"{node} from remote", 0.0, 2 * ttft_s, 9_000_000),
        )
    )
    return ColdStart("tiny", len(nodes), tuple(nodes), ttft_s, phases, predicted)


def test_cold_starts_are_shown_side_by_side_on_one_scale() -> None:
    starts = {"one node": start(["a"], 8.0, Expected(7.5, None, {})), "2 nodes": start(["a", "b"], 4.0)}
    shown = drawn(comparison(starts, same=True))
    assert shown[1:7] == [
        "                   one node   2 nodes",
        "degree                    1         2",
        "first token after    8.00 s    4.00 s",
        "predicted            7.50 s         ?",
        "bytes per node       8.0 MB    8.0 MB",
        "answer             the same  the same",
    ]
    lengths = [(line.split()[0], line.count("█")) for line in shown[8:]]
    assert lengths == [("one", 42), ("2", 21), ("b", 21)]
    assert any("not the same" in line for line in drawn(comparison(starts, same=False)))


def test_bars_are_signs_that_any_terminal_has_if_need_be() -> None:
    shown = drawn(comparison({"one node": start(["a"], 8.0), "2 nodes": start(["a", "b"], 4.0)}, same=True), "ascii")
    assert [line.count("#") for line in shown[-3:]] == [42, 21, 21]


def test_what_the_planner_expects_is_told_for_each_way() -> None:
    def candidate(nodes: Sequence[str], **told: Any) -> dict[str, Any]:
        return {"degree": len(nodes), "nodes": nodes, "chosen": False, "ruled_out": "", "prediction": None, **told}

    shown = drawn(
        expected_table(
            {
                "candidates": [
                    candidate(["node-1"], prediction={"ttft_s": 2.5}, ruled_out="slower: by far"),
                    candidate(["node-1", "node-2"], prediction={"ttft_s": 1.25}, chosen=True),
                    candidate([], ruled_out="no room"),
                ]
            }
        )
    )
    assert [" ".join(line.split()) for line in shown[2:]] == [
        "1 node-1 2.50 s slower",
        "2 node-1, 2 1.25 s chosen",
        "0 ? no room",
    ]
