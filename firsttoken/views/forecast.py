"""What is expected, as a person sees it at the terminal and as a script reads it."""

from collections.abc import Iterator, Mapping
from math import ceil, isfinite
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from firsttoken.views.tables import Table
from firsttoken.views.traces import BARS, duration, short
from flows.foreseeing.look import Looked
from flows.foreseeing.minutes import Came
from schedules.foresight.past import MINUTE_S

_WORDS = 42
"""Columns beside the bars."""
_SHOWN_MIN = 60
_WITHIN_MIN = (1, 5, 15, 60)
_SHARE = 10
_RANKED = 3


def of_model(looked: Looked, model: str, width: int) -> Iterator[RenderableType]:
    """What came for a model minute by minute, and what is expected with its bounds; where there are more minutes than
    columns, several share a bar."""
    forecast, row = looked.forecast, looked.forecast.models.index(model)
    columns, ahead = max(30, width - _WORDS), forecast.expected.shape[1]
    each_min = ceil(ahead / (columns * 2 // 3))
    came_min = min(_SHOWN_MIN, columns - ceil(ahead / each_min)) * each_min
    came = _mean(looked.past.counts[row, -came_min:], each_min)
    expected, by_then = _mean(forecast.expected[row], each_min), forecast.by_then[row, each_min - 1 :: each_min]
    highest = max(1.0, float(came.max(initial=0.0)), float(expected.max()))
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        Text("requests a minute", style="bold"),
        Text.assemble((_bars(came, highest), "cyan"), ("│", "bold"), (_bars(expected, highest), "yellow")),
        Text(f"{highest:.3g} at most", style="dim"),
    )
    grid.add_row(
        Text("called by then", style="bold"),
        Text.assemble(" " * len(came), ("│", "bold"), (_bars(by_then, 1.0), "green")),
        Text(f"{_percent(float(forecast.probability[row]))} at the end", style="dim"),
    )
    since = f"-{duration(len(came) * each_min * MINUTE_S)}"
    grid.add_row("", Text(f"{since:<{len(came)}}│+{duration(forecast.horizon_s)}", style="dim"), "")
    yield Text(model, style="bold")
    yield grid
    yield _figures(looked, row, forecast.expected[row].cumsum(), forecast.by_then[row])


def _mean(values: Any, each: int) -> Any:
    """Of so many values in a row at a time; what is left over at the begin or at the end is not told."""
    whole = len(values) // each * each
    return values[:whole].reshape(-1, each).mean(axis=1)


def _figures(looked: Looked, row: int, expected: Any, by_then: Any) -> Table:
    forecast, past = looked.forecast, looked.past
    table = Table.grid(padding=(0, 2))
    came, over = looked.came.get(forecast.models[row], Came()), duration(past.until_s - past.begin_s)
    rows = [("came", f"{came.arrived:,} requests in {over}, the last {_ago(past.until_s - float(past.last_s[row]))}")]
    if came.answered:
        assert came.ttft_s is not None
        assert came.ttft_most_s is not None
        rows.append((
            "served",
            f"{came.cold:,} waited for a start; first token after {came.ttft_s:.2f} s in the mean, "
            f"{came.ttft_most_s:.2f} s at most",
        ))  # fmt: skip
    if came.refused or came.failed:
        rows.append(("not served", f"{came.refused:,} refused, {came.failed:,} failed"))
    minutes = sorted({min(within, len(by_then)) for within in (*_WITHIN_MIN, len(by_then))})
    rows += [
        (
            f"within {duration(within * MINUTE_S)}",
            f"called with {_percent(float(by_then[within - 1]))}; {_requests(float(expected[within - 1]))} requests expected",
        )
        for within in minutes
    ]
    low, high = float(forecast.low[row]), float(forecast.high[row])
    rows.append(("four times in five", f"{low:.3g} to {high:.3g} requests within {duration(forecast.horizon_s)}"))
    if forecast.methods:
        rows.append(("by", forecast.methods[row]))
    if looked.costs:
        rows.append(
            ("why", _why(forecast.methods[row], {name: float(cost[row]) for name, cost in looked.costs.items()}))
        )
    for name, what in rows:
        table.add_row(Text(name, style="bold"), Text(what))
    return table


def _why(method: str, costs: Mapping[str, float]) -> str:
    """Why that one was chosen, which would have cost so much for the model in the hours before."""
    own = costs.get(method)
    if own is None or not any(costs.values()):
        return "nothing could be tried yet"
    others = sorted((cost, name) for name, cost in costs.items() if name != method)[:_RANKED]
    ranked = ", ".join(f"{name} {cost:.3g}" for cost, name in others)
    if others[0][0] < own:
        return f"tried on the hours before it cost {own:.3g}; no other one surely less: {ranked}"
    return f"tried on the hours before it cost the least, {own:.3g}; then {ranked}"


def of_all(looked: Looked, most: int) -> Iterator[RenderableType]:
    """The likeliest models first."""
    forecast, past = looked.forecast, looked.past
    order = likeliest(looked)
    within, over = duration(forecast.horizon_s), duration(past.until_s - past.begin_s)
    table = Table("model", title=f"Who is called within {within}", title_justify="left", box=None)
    for column in ("called with", "", "expected", "4 in 5 times", f"came in {over}", "last", "by"):
        table.add_column(column, justify="left" if column in ("", "by") else "right")
    for row in order[:most]:
        probability = float(forecast.probability[row])
        table.add_row(
            Text(short(forecast.models[row])),
            _percent(probability),
            Text("█" * round(probability * _SHARE), style="green"),
            _requests(float(forecast.total[row])),
            f"{float(forecast.low[row]):.3g} to {float(forecast.high[row]):.3g}",
            f"{int(past.counts[row].sum()):,}",
            _ago(past.until_s - float(past.last_s[row])),
            forecast.methods[row] if forecast.methods else "",
        )
    yield table
    if len(order) > most:
        yield Text(f"and {len(order) - most:,} less likely: --limit shows more", style="dim")


def likeliest(looked: Looked) -> list[int]:
    """Rows of the forecast, the likeliest called first."""
    forecast = looked.forecast
    rank = [
        (-float(p), -float(n), name)
        for p, n, name in zip(forecast.probability, forecast.total, forecast.models, strict=True)
    ]
    return sorted(range(len(rank)), key=rank.__getitem__)


def forecast_figures(looked: Looked, row: int) -> Mapping[str, Any]:
    """All that is known of a model and expected of it, for a script."""
    forecast, past = looked.forecast, looked.past
    model, last_s = forecast.models[row], float(past.last_s[row])
    return {
        "model": model,
        "at": forecast.at_s,
        "horizon_s": forecast.horizon_s,
        "method": forecast.methods[row] if forecast.methods else None,
        "probability": float(forecast.probability[row]),
        "expected": float(forecast.total[row]),
        "low": float(forecast.low[row]),
        "high": float(forecast.high[row]),
        "expected_by_minute": forecast.expected[row].tolist(),
        "called_by_minute": forecast.by_then[row].tolist(),
        "history_s": past.until_s - past.begin_s,
        "last": last_s if isfinite(last_s) else None,
        "costs": {name: float(cost[row]) for name, cost in looked.costs.items()},
        "came": vars(looked.came.get(model, Came())),
    }


def _bars(values: Any, highest: float) -> str:
    """What is not nothing can be seen."""
    return "".join(BARS[min(len(BARS) - 1, ceil(float(value) / highest * (len(BARS) - 1) - 1e-9))] for value in values)


def _percent(share: float) -> str:
    if 0.0 < share < 0.001:
        return "< 0.1 %"
    return f"{100.0 * share:.0f} %" if share >= 0.1 else f"{100.0 * share:.1f} %"


def _requests(count: float) -> str:
    return "< 0.01" if 0.0 < count < 0.01 else f"{count:.3g}"


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago" if isfinite(seconds) else "never"
