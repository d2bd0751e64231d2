"""What a person sees of the demo: cold starts side by side, and a move as the client felt it."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.filesize import decimal
from rich.measure import Measurement
from rich.text import Text

from firsttoken.views.tables import Table, node_names, open_table

if TYPE_CHECKING:
    from firsttoken.demo.counting import Counted
    from firsttoken.frontend import ColdStart, PhaseOfStart
    from firsttoken.settings import Settings
    from storage_tiers.checkpoint import Checkpoint

_BAR_WIDTH = 42
_FETCH, _FROM = "fetch ", " from "
_OTHERS = {"stages made": ("take process", "join group", "build skeleton"), "layers run": ("first step",)}


def introduction(checkpoint: "Checkpoint", settings: "Settings") -> str:
    """What is shown, and by what it is held up."""
    rate = f"{8 * settings.node.network_bytes_per_s / 1e6:g} Mbit/s"
    return (
        f"{checkpoint.name}, {decimal(checkpoint.size_bytes)} in {checkpoint.dtype}, and {settings.cluster.nodes} nodes "
        f"on this machine. What a node takes in, from the store and from other nodes, is held to {rate} in software "
        "(node.network_bytes_per_s): a cold start waits for bytes here, as it does on a cluster."
    )


def expected_table(decision: Mapping[str, Any]) -> Table:
    """What the planner expects of each way to start, and which it takes."""
    table = open_table("What the planner expects")
    table.add_column("degree", justify="right")
    table.add_column("nodes")
    table.add_column("first token", justify="right")
    table.add_column("")
    for candidate in decision["candidates"]:
        prediction = candidate["prediction"]
        fate = "chosen" if candidate["chosen"] else candidate["ruled_out"].partition(":")[0]
        after = _seconds(prediction["ttft_s"] if prediction else None)
        style = "bold" if candidate["chosen"] else None
        table.add_row(str(candidate["degree"]), node_names(candidate["nodes"]), after, fate, style=style)
    return table


def comparison(starts: "Mapping[str, ColdStart]", same: bool) -> Group:
    """Cold starts of one model side by side, by what they are called; `same` is whether the answers were."""
    table = open_table("Side by side")
    table.add_column("")
    for name in starts:
        table.add_column(name, justify="right")
    shown = starts.values()
    table.add_row("degree", *(str(start.degree) for start in shown))
    table.add_row("first token after", *(_seconds(start.ttft_s) for start in shown), style="bold")
    table.add_row("predicted", *(_seconds(start.predicted.ttft_s if start.predicted else None) for start in shown))
    table.add_row("bytes per node", *(_sizes(fetched(start).values()) for start in shown))
    table.add_row("answer", *("the same" if same else "not the same" for _ in shown))
    return Group(table, Text(), bars(starts))


def bars(starts: "Mapping[str, ColdStart]") -> Table:
    """Where the time went, on one scale."""
    longest_s = max(end_s for start in starts.values() for _, _, end_s in _spans(start))
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, start in starts.items():
        for row, (what, begin_s, end_s) in enumerate(_spans(start)):
            table.add_row("" if row else name, what, _Span(longest_s, begin_s, end_s), f"{end_s:.2f} s")
    return table


def fetched(start: "ColdStart") -> dict[str, int]:
    """Bytes that came before the first token, by node."""
    return {node: sum(phase.size_bytes for phase in phases) for node, phases in _fetches(start).items()}


def pause_table(counted: "Counted") -> Table:
    """The move as the client felt it."""
    table = Table(show_header=False, box=None, title="By the client's own clock", title_justify="left")
    before, (pipeline_ms, replica_ms) = counted.before, (1000 * counted.token_s(moved=moved) for moved in (False, True))
    table.add_row("tokens", f"{before} from the pipeline, {len(counted.heard.times_s) - before} from the replica")
    table.add_row("a token took", f"{pipeline_ms:.0f} ms from the pipeline, {replica_ms:.0f} ms from the replica")
    table.add_row("longest wait", f"{1000 * counted.pause_s:.0f} ms, when it went over")
    told = "none lost and none twice" if counted.unbroken else "which do not follow one another"
    table.add_row("numbers", f"{counted.numbers[0]} to {counted.numbers[-1]}, {told}" if counted.numbers else "none")
    return table


def _spans(start: "ColdStart") -> Iterator[tuple[str, float, float]]:
    """What lasted from when to when: each node's fetch, the making of the stages, the first step, whose layers run as they
    come."""
    for node, phases in _fetches(start).items():
        yield f"{node} fetches", *_extent(phases)
    for what, names in _OTHERS.items():
        if found := [phase for phase in start.phases if phase.name in names]:
            yield what, *_extent(found)


def _extent(phases: "Collection[PhaseOfStart]") -> tuple[float, float]:
    return min(phase.start_s for phase in phases), max(phase.end_s for phase in phases)


def _fetches(start: "ColdStart") -> "dict[str, list[PhaseOfStart]]":
    """By node, what it fetched before the first token."""
    found: dict[str, list[PhaseOfStart]] = {}
    for phase in start.phases:
        if phase.name.startswith(_FETCH) and (start.ttft_s is None or phase.end_s <= start.ttft_s):
            found.setdefault(phase.where.partition(_FROM)[0], []).append(phase)
    return dict(sorted(found.items()))


def _sizes(sizes: Collection[int]) -> str:
    least, most = min(sizes, default=0), max(sizes, default=0)
    return decimal(most) if least == most else f"{least / 1e6:.0f} to {most / 1e6:.0f} MB"


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.2f} s"


class _Span:
    """A bar from one time to another; of signs that any terminal has, if need be."""

    def __init__(self, size_s: float, begin_s: float, end_s: float) -> None:
        self._size_s, self._begin_s, self._end_s = size_s, begin_s, end_s

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        if not options.ascii_only:
            yield Bar(self._size_s, self._begin_s, self._end_s, width=_BAR_WIDTH)
            return
        begin, end = (int(_BAR_WIDTH * at_s / self._size_s) for at_s in (self._begin_s, self._end_s))
        yield Text(f"{' ' * begin}{'#' * max(1, end - begin)}")

    def __rich_measure__(self, _console: Console, _options: ConsoleOptions) -> Measurement:
        return Measurement(_BAR_WIDTH, _BAR_WIDTH)
