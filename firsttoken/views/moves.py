"""What a person sees of moves at the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from rich.console import Console
from rich.filesize import decimal
from rich.status import Status
from rich.text import Text

from firsttoken.views.tables import Table, wide_as

GIVEN_UP = "given up"
ENDED = ("done", GIVEN_UP)
Move = Mapping[str, Any]
_STYLES = {"done": "green", GIVEN_UP: "red"}


class MoveLine:
    """A line that says where a move stands; where there is no terminal, a line whenever that changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, move: Move) -> None:
        """It stands there now."""
        said = f"{move['move']}: {sentence(move)}"
        if said == self._said:
            return
        self._said = said
        if not self._console.is_terminal:
            self._console.print(said, highlight=False, soft_wrap=True, markup=False)
        elif self._status is None:
            self._status = self._console.status(Text(said))
            self._status.start()
        else:
            self._status.update(Text(said))


def sentence(move: Move) -> str:
    """Where it stands, and what is done there."""
    step, where = str(move["step"]), ", ".join(sorted({node for heir in _heirs(move) for node in heir["nodes"]}))
    if step in ("ordered", "preparing") and where:
        expected = move["predicted_s"].get("ready")
        return f"{step}: {_what(move)} is made ready on {where}" + (f", about {expected:.1f} s" if expected else "")
    if step == "switching":
        return f"{step}: {move['requests']['shifted']} requests have gone over"
    return step


def move_table(move: Move) -> Table:
    """What became of one move."""
    title = f"Move {move['move']}: {move['reason']}"
    table = Table(title=title, title_justify="left", show_header=False, box=None, min_width=wide_as(title))
    requests, pauses_s = move["requests"], sorted(move["pauses_s"])
    table.add_row("moved", "; ".join(_handed_over(handover) for handover in move["handovers"]) or "nothing ran there")
    table.add_row("took", _seconds(_took_s(move)))
    table.add_row("requests", f"{requests['shifted']} shifted, {requests['stayed']} stayed where they were")
    copied = (
        f"{requests['copied']} copied ({decimal(requests['copied_bytes'])}), {requests['recomputed']} computed anew"
    )
    table.add_row("KV cache", copied)
    if pauses_s:
        middle_s = pauses_s[len(pauses_s) // 2]
        table.add_row("pauses", f"{1000 * middle_s:.0f} ms in the middle, {1000 * pauses_s[-1]:.0f} ms at most")
    return table


def moves_table(moves: Sequence[Move], title: str = "Moves") -> Table:
    """Moves, a row each, and below what moved why it did, or why it did not."""
    table = Table("move", "kind", "step", "what", "requests", "pause", "took", title=title, title_justify="left")
    for move in moves:
        paused = f"{1000 * max(move['pauses_s']):.0f} ms" if move["pauses_s"] else ""
        what = "; ".join(_handed_over(handover) for handover in move["handovers"]) or move["node"]
        table.add_row(
            move["move"],
            move["kind"],
            Text(move["step"], style=_STYLES.get(move["step"], "yellow")),
            Text.assemble(what, "\n", (f"{move['why'] or move['reason']} (by the {move['carrier']})", "dim")),
            str(move["requests"]["shifted"]),
            paused,
            _seconds(_took_s(move)),
        )
    return table


def _took_s(move: Move) -> float | None:
    return None if move["done_at"] is None else move["done_at"] - move["ordered_at"]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _what(move: Move) -> str:
    return ", ".join(sorted({handover["model"] for handover in move["handovers"]}))


def _heirs(move: Move) -> list[Mapping[str, Any]]:
    return [heir for handover in move["handovers"] for heir in handover["heirs"]]


def _handed_over(handover: Mapping[str, Any]) -> str:
    to = " and ".join(", ".join(heir["nodes"]) for heir in handover["heirs"]) or "nowhere, it ends there"
    return f"{handover['model']}: {', '.join(handover['nodes'])} -> {to}"
