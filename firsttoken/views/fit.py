"""What a person sees of a fitted world: each quantity beside what nodes report of it, and how good all of it is."""

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from firsttoken.terminal import rate_text
from firsttoken.views.tables import Table
from schedules.fitting.fitted import HOP, RECEIVE, TAIL, Fitted, Played, Quality, Quantity, Whence
from schedules.simulation.comparing import Comparison

_OURS = {
    HOP: "hop between stages", RECEIVE: "to the router and back", TAIL: "from all being there to the first step",
}  # fmt: skip
_LIKELY = 0.05
"""Above it nothing says that two samples are of two distributions."""


def fit_view(world: Fitted) -> Group:
    """All of it."""
    parts: list[RenderableType] = [Text(f"Fitted to {world.source}."), quantity_table(world)]
    if world.quality is not None:
        parts += [quality_table(world.quality), Text(verdict(world.quality))]
    return Group(*parts)


def quantity_table(world: Fitted) -> Table:
    """A row for each quantity; those that stay as they are reported are dim."""
    table = Table("node", "what", title="What was fitted", title_justify="left")
    for column in ("reported", "fitted", "samples", "outliers", "spread"):
        table.add_column(column, justify="right")
    table.add_column("from")
    for quantity in world.quantities:
        seen = quantity.whence is not Whence.REPORTED
        table.add_row(
            quantity.node or "all",
            _OURS.get(quantity.name, quantity.name),
            "" if quantity.reported is None else _value(quantity, quantity.reported),
            _value(quantity, quantity.value) if seen else "",
            str(quantity.samples) if seen else "",
            str(quantity.outliers) if seen else "",
            f"{quantity.spread:.0%}" if seen else "",
            quantity.whence.value if seen or quantity.reported is not None else "too little was seen",
            style=None if seen else "dim",
        )
    return table


def quality_table(quality: Quality) -> Table:
    """What was not fitted to, played by what nodes report and by what was fitted."""
    table = Table("", title="How good it is", title_justify="left")
    for column in ("as reported", "fitted"):
        table.add_column(column, justify="right")
    for name, figure in _FIGURES:
        table.add_row(name, figure(quality.reported), figure(quality.fitted))
    return table


def verdict(quality: Quality) -> str:
    """In a sentence or two."""
    return " ".join(_sentences(quality))


def _sentences(quality: Quality) -> Iterator[str]:
    hours = (quality.until_s - quality.since_s) / 3600
    yield f"Judged by the last {hours:,.1f} h ({quality.requests:,} requests), which were not fitted to."
    before, after = quality.reported.starts, quality.fitted.starts
    if before is None or after is None:
        yield "No cold start was both seen and played in it: how good single ones are is not known."
    else:
        yield (
            f"Single cold starts come out {after.mean:.1%} off in the mean ({after.pairs} of them), {before.mean:.1%} by "
            "what nodes report."
        )
        if after.mean > before.mean:
            yield "The fit is no better than what nodes report: plan with those, or fit again with more history."
    cold = quality.fitted.cold
    if cold is not None and cold.ks_p < _LIKELY:
        yield (
            f"The TTFT of cold requests is not distributed as it was seen (KS {cold.ks:.2f}): see where the model is wrong."
        )


def _value(quantity: Quantity, value: float) -> str:
    return f"{value * 1000:,.1f} ms" if quantity.name in _OURS else rate_text(quantity.name, value)


def _of(which: str, error: str) -> Callable[[Played], str]:
    def told(played: Played) -> str:
        found: Comparison | None = getattr(played, which)
        return "" if found is None else f"{getattr(found, error):+.1%}"

    return told


def _starts(error: str) -> Callable[[Played], str]:
    return lambda played: "" if played.starts is None else f"{getattr(played.starts, error):.1%}"


def _ks(which: str) -> Callable[[Played], str]:
    def told(played: Played) -> str:
        found: Comparison | None = getattr(played, which)
        return "" if found is None else f"{found.ks:.2f} (p {found.ks_p:.2f})"

    return told


_FIGURES: tuple[tuple[str, Callable[[Played], str]], ...] = (
    ("single cold starts: mean error", _starts("mean")),
    ("  median error", _starts("median")),
    ("  95th percentile of errors", _starts("p95")),
    ("TTFT of cold requests: median", _of("cold", "median")),
    ("  95th percentile", _of("cold", "p95")),
    ("  Kolmogorov-Smirnov distance", _ks("cold")),
    ("TTFT of all requests: median", _of("all", "median")),
    ("  95th percentile", _of("all", "p95")),
    ("  Kolmogorov-Smirnov distance", _ks("all")),
    ("cold starts, played and seen", lambda played: f"{played.starts_played}, {played.starts_seen}"),
)
