"""A backtest as pictures: what each method costs, and what one of them said beside what came."""

from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree.ElementTree import Element

import numpy as np

from flows.capacity.markup import el
from flows.capacity.paper import on_paper
from flows.capacity.scales import Linear, from_zero
from schedules.foresight.backtest import Backtest, Row

COSTS = "Cost of each method over that of fixed keep-alive"
OVER_TIME = "Requests in the horizon from each time on: what was forecast, and what came"
_WIDTH, _LEFT, _RIGHT = 920, 190, 90
_ROW, _TOP = 26, 60
_OWN_STYLE = """rect.cold{fill:var(--orange)}rect.held{fill:var(--blue)}path.band{fill:var(--pale);opacity:.55}
path.came{fill:none;stroke:var(--ink);stroke-width:1.5}path.said{fill:none;stroke:var(--blue);stroke-width:2}
line.one{stroke:var(--quiet);stroke-dasharray:4 3}"""


def costs(found: Backtest) -> str:
    """SVG: a bar each, its part for cold starts and its part for what was held and moved."""
    rows = found.table()
    usual_s = float(found.keep_alive.cost_s.sum()) or 1.0
    x = from_zero([row.cost_s / usual_s for row in rows] + [1.0])
    height = _TOP + _ROW * len(rows) + 40
    bars = (part for place, row in enumerate(rows) for part in _bar(row, usual_s, place, x))
    one = _LEFT + x.at(1.0) * (_WIDTH - _LEFT - _RIGHT)
    return _whole(
        COSTS,
        "; ".join(f"{row.method}: {row.relative:.2f}" for row in rows),
        height,
        el("rect", x=_LEFT, y=44, width=12, height=10, class_="cold"),
        el("text", "cold starts", x=_LEFT + 18, y=53),
        el("rect", x=_LEFT + 110, y=44, width=12, height=10, class_="held"),
        el("text", "memory held and bytes moved", x=_LEFT + 128, y=53),
        *bars,
        el("line", x1=one, x2=one, y1=_TOP, y2=height - 34, class_="one"),
        el("text", "fixed keep-alive", x=one, y=height - 18, class_="tick", text_anchor="middle"),
    )


def _bar(row: Row, usual_s: float, place: int, x: Linear) -> Iterator[Element]:
    top, span = _TOP + place * _ROW, _WIDTH - _LEFT - _RIGHT
    cold, whole = x.at(row.cold_start_s / usual_s) * span, x.at(row.cost_s / usual_s) * span
    yield el("text", row.method, x=_LEFT - 10, y=top + 17, text_anchor="end", class_="label")
    yield el("rect", x=_LEFT, y=top + 5, width=cold, height=16, class_="cold")
    yield el("rect", x=_LEFT + cold, y=top + 5, width=max(0.0, whole - cold), height=16, class_="held")
    yield el("text", f"{row.cost_s / usual_s:.2f}", x=_LEFT + whole + 8, y=top + 17)


def over_time(found: Backtest, method: str) -> str:
    """SVG: of all models together, the sums of what the method expected and of its bounds, and what came."""
    said = found.by(method)
    came, expected = found.came.sum(axis=1), said.expected.sum(axis=1)
    low, high = said.low.sum(axis=1), said.high.sum(axis=1)
    left, top, bottom = 60, 70, 300
    y = from_zero([*came.tolist(), *expected.tolist(), *high.tolist()])
    begin_s, end_s = float(found.at_s[0]), float(max(found.at_s[-1], found.at_s[0] + 1.0))
    across = left + (found.at_s - begin_s) / (end_s - begin_s) * (_WIDTH - left - 24)

    def up(values: np.ndarray) -> list[float]:
        return [bottom - y.at(float(value)) * (bottom - top) for value in values]

    def line(values: np.ndarray) -> str:
        return "M" + "L".join(f"{at:.1f} {high:.1f}" for at, high in zip(across, up(values), strict=True))

    back = "L".join(f"{at:.1f} {high:.1f}" for at, high in zip(across[::-1], up(low[::-1]), strict=True))
    ticks = [
        el("text", f"{datetime.fromtimestamp(begin_s + share * (end_s - begin_s), UTC):%d %b %H:%M}",
           x=left + share * (_WIDTH - left - 24), y=bottom + 20, class_="tick",
           text_anchor="start" if share == 0 else "end" if share == 1 else "middle")
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]  # fmt: skip
    return _whole(
        OVER_TIME,
        f"{method} expected {expected.mean():.3g} requests in the mean, {came.mean():.3g} came",
        bottom + 40,
        el("text", "— came   ", el("tspan", f"— {method}, and its bounds", fill="var(--blue)"), x=24, y=54),
        el("path", d=f"{line(high)}L{back}Z", class_="band"),
        el("path", d=line(expected), class_="said"),
        el("path", d=line(came), class_="came"),
        el("line", x1=left, x2=_WIDTH - 24, y1=bottom, y2=bottom, class_="axis"),
        *(el("text", f"{tick:.3g}", x=left - 8, y=bottom - y.at(tick) * (bottom - top) + 4, class_="tick", text_anchor="end")
          for tick in y.ticks(4)),
        *ticks,
    )  # fmt: skip


def _whole(title: str, description: str, height: float, *parts: Element) -> str:
    head = el("text", title, x=24, y=30, class_="head")
    return on_paper(title, description, _WIDTH, height, head, *parts, own_style=_OWN_STYLE)
