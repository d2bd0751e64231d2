"""A trace as a person sees it at the terminal, and as a script reads it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from firsttoken.views.tables import Table
from schedules.traces.summary import Summary, over_time, ranked
from schedules.traces.trace import Trace

BARS = " ▁▂▃▄▅▆▇█"
"""From nothing to the highest."""
_NAME = 28
_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def figures(path: str, trace: Trace, summary: Summary) -> Mapping[str, Any]:
    """All that is known of a trace, for a script."""
    origin = trace.provenance
    return {
        "trace": path,
        "requests": summary.requests,
        "duration_s": summary.duration_s,
        "rate_per_s": summary.rate_per_s,
        "peak_per_s": summary.peak_per_s,
        "models": summary.models,
        "called": summary.called,
        "cv": summary.cv,
        "model_cv": summary.model_cv,
        "popular": [model._asdict() for model in summary.popular],
        "tokens": {name: lengths._asdict() for name, lengths in summary.tokens.items()},
        "cold_shares": [{"keep_alive_s": alive, "share": share} for alive, share in summary.cold_shares.items()],
        "targets": summary.targets,
        "provenance": {"source": origin.source, "steps": list(origin.steps), "seed": origin.seed},
    }


def tables(trace: Trace, summary: Summary) -> Sequence[Table]:
    """Figures of the whole, of lengths, and the share of cold starts by keep-alive."""
    whole = Table.grid(padding=(0, 2))
    origin = trace.provenance
    seed = () if origin.seed is None else (f"seed {origin.seed}",)
    rows = [
        ("from", _printable("; ".join((origin.source, *origin.steps, *seed)))),
        ("requests", f"{summary.requests:,} in {duration(summary.duration_s)}"),
        ("rate", f"{summary.rate_per_s:,.3g}/s in the mean, {summary.peak_per_s:,.3g}/s in the busiest minute"),
        ("models", f"{summary.models:,}, called: {summary.called:,}"),
        ("CV of gaps", f"{_number(summary.cv)} of all requests, {_number(summary.model_cv)} in the median of models"),
    ]
    if summary.targets:
        rows.append(("known", f"service levels for {summary.targets:,} models"))
    for name, what in rows:
        whole.add_row(Text(name, style="bold"), Text(what))
    lengths = Table("tokens", title="Lengths", title_justify="left")
    for column in ("mean", "50 %", "90 %", "99 %", "longest"):
        lengths.add_column(column, justify="right")
    for name, spread in summary.tokens.items():
        lengths.add_row(name.removesuffix("_tokens"), *(f"{value:,.0f}" for value in spread))
    cold = Table("keep-alive", title="Called after a silence", title_justify="left")
    cold.add_column("share of requests", justify="right")
    for alive_s, share in summary.cold_shares.items():
        cold.add_row(duration(alive_s), f"{share:.2%}")
    return whole, lengths, cold


def picture(trace: Trace, summary: Summary, width: int) -> Table:
    """Arrivals over time, of all and of the models that are called most; each row to its own height."""
    bins = max(10, min(120, width - _NAME - 26))
    title = f"Arrivals, {duration(summary.duration_s / bins)} a bar"
    table = Table("model", f"over {duration(summary.duration_s)}", title=title, title_justify="left", box=None)
    for column in ("requests", "share"):
        table.add_column(column, justify="right")
    table.add_row("all", _bars(over_time(trace, bins)), f"{summary.requests:,}", "")
    for place, model in zip(ranked(trace, len(summary.popular)), summary.popular, strict=True):
        bars = _bars(over_time(trace, bins, place))
        table.add_row(Text(short(model.model)), bars, f"{model.requests:,}", f"{model.share:.1%}")
    return table


def _bars(counts: Iterable[int]) -> Text:
    """What is not nothing can be seen."""
    heights = [int(count) for count in counts]
    highest = max(1, *heights)
    return Text(
        "".join(BARS[-(-height * (len(BARS) - 1) // highest)] for height in heights), style="cyan", no_wrap=True
    )


def _printable(text: str) -> str:
    """What a file says of itself does not steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def short(name: str) -> str:
    """What a column has room for."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def duration(seconds: float) -> str:
    """In the largest unit that it has one of."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1.0, "s"))
    return f"{seconds / size:.3g} {unit}"
