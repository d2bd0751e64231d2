"""Forecast against arrivals as a picture: what came of late beside what had been expected, and what is expected now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from flows.capacity.markup import el
from flows.capacity.paper import on_paper
from flows.capacity.scales import Linear
from flows.capacity.words import count
from schedules.foresight.forecast import Forecast
from schedules.foresight.past import MINUTE_S, Past

TITLE = "Requests a minute: what came, and what was and is expected"
_WIDTH, _LEFT, _RIGHT = 920, 60, 24
_TOP, _LANE, _GAP, _UNDER = 84, 84, 40, 36
_PAST_HORIZONS, _LEAST_MINUTES = 3, 45
_OWN_STYLE = """tspan.label{font-weight:600;fill:var(--ink)}
rect.came{fill:var(--pale)}path.expected{fill:none;stroke:var(--blue);stroke-width:2}
path.before{fill:none;stroke:var(--orange);stroke-width:1.5;stroke-dasharray:4 3}line.now{stroke:var(--quiet)}
rect.ahead{fill:var(--wash);opacity:.5}"""
ALL = "all models"
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Lane:
    """Of one model, or of all, by the minute: what `came` until now, what had been expected for the last of these minutes
    `before` they were (empty if nobody asked), and what is `expected` from now on. `words` say it."""

    name: str
    came: Numbers
    before: Numbers
    expected: Numbers
    words: str


def lanes_of(past: Past, forecast: Forecast, before: Forecast | None, most: int = 3) -> list[Lane]:
    """All models together, and those of whom the most is expected or came. `before` is the forecast for the minutes until
    now, as it would have been made when they began."""
    shown = max(_LEAST_MINUTES, _PAST_HORIZONS * forecast.expected.shape[1])
    came = past.counts[:, -shown:].astype(np.float64)
    order = np.argsort(-(forecast.total + came.sum(axis=1) * 1e-3), kind="stable") if len(past.models) > 1 else ()
    named = [index for index in order[:most] if forecast.total[index] > 0 or came[index].any()]
    then = np.zeros((len(past.models), 0)) if before is None else before.expected
    everything = Lane(
        ALL,
        came.sum(axis=0),
        then.sum(axis=0),
        forecast.expected.sum(axis=0),
        _words(float(forecast.total.sum()), forecast),
    )
    return [everything, *(_lane(index, past, forecast, came, then) for index in named)]


def _lane(index: int, past: Past, forecast: Forecast, came: Numbers, then: Numbers) -> Lane:
    by = f", by {forecast.methods[index]}" if forecast.methods else ""
    likely = f", at least one with {forecast.probability[index]:.0%}"
    bounds = f" ({forecast.low[index]:.3g} to {forecast.high[index]:.3g})"
    words = _words(float(forecast.total[index]), forecast) + bounds + likely + by
    return Lane(past.models[index], came[index], then[index], forecast.expected[index], words)


def _words(total: float, forecast: Forecast) -> str:
    return f"{total:.3g} expected in {forecast.horizon_s / MINUTE_S:.0f} min"


def picture(lanes: Sequence[Lane], now_s: float) -> str:
    """SVG: a lane below the other, over the same time; `now_s` in unix seconds."""
    height = _TOP + len(lanes) * (_LANE + _GAP) + _UNDER
    first = lanes[0]
    x = Linear(-float(len(first.came)), float(len(first.expected)))
    return on_paper(
        TITLE,
        "; ".join(f"{lane.name}: {lane.words}" for lane in lanes),
        _WIDTH,
        height,
        el("text", TITLE, x=24, y=34, class_="head"),
        *_key(),
        *(part for place, lane in enumerate(lanes) for part in _drawn(lane, x, _TOP + place * (_LANE + _GAP))),
        *_clock(x, now_s, height - _UNDER + 6),
        own_style=_OWN_STYLE,
    )


def _key() -> Iterator[Element]:
    for place, (mark, words) in enumerate(
        (
            (el("rect", x=24, y=48, width=14, height=10, class_="came"), "came"),
            (el("path", d="M124 53h16", class_="before"), "was expected"),
            (el("path", d="M254 53h16", class_="expected"), "is expected"),
        )
    ):
        yield mark
        yield el("text", words, x=(44, 146, 276)[place], y=58)


def _drawn(lane: Lane, x: Linear, top: float) -> Iterator[Element]:
    y = Linear(0.0, max(1.0, *lane.came, *lane.before, *lane.expected) * 1.05)
    base = top + 20 + _LANE - 20
    yield el("text", el("tspan", lane.name[:60], class_="label"), el("tspan", lane.words, dx=8), x=_LEFT, y=top + 8)
    now = _across(x, 0.0)
    yield el("rect", x=now, y=top + 16, width=_WIDTH - _RIGHT - now, height=base - top - 16, class_="ahead")
    minutes = len(lane.came)
    wide = max(0.5, (_WIDTH - _LEFT - _RIGHT) / (x.high - x.low) - 0.5)
    for minute, requests in enumerate(lane.came):
        if requests:
            tall = y.at(float(requests)) * (_LANE - 20)
            title = el("title", f"{count(float(requests), 'request')}, {minutes - minute} min ago")
            yield el(
                "rect", title, x=_across(x, minute - minutes), y=base - tall, width=wide, height=tall, class_="came"
            )
    if len(lane.before):
        yield el("path", d=_steps(lane.before, -len(lane.before), x, y, base), class_="before")
    yield el("path", d=_steps(lane.expected, 0, x, y, base), class_="expected")
    yield el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, class_="axis")
    yield el("line", x1=now, x2=now, y1=top + 16, y2=base, class_="now")
    yield el("text", f"{y.high / 1.05:.3g}", x=_LEFT - 8, y=top + 28, class_="tick", text_anchor="end")
    yield el("text", "0", x=_LEFT - 8, y=base + 4, class_="tick", text_anchor="end")


def _steps(values: Numbers, begin: int, x: Linear, y: Linear, base: float) -> str:
    places = (
        (_across(x, begin + minute), base - y.at(float(value)) * (_LANE - 20)) for minute, value in enumerate(values)
    )
    steps = [
        f"{across:.1f} {up:.1f}H{_across(x, begin + minute + 1):.1f}" for minute, (across, up) in enumerate(places)
    ]
    return "M" + "L".join(steps)


def _clock(x: Linear, now_s: float, y: float) -> Iterator[Element]:
    for minute in x.ticks(8):
        at = datetime.fromtimestamp(now_s + minute * MINUTE_S, UTC)
        yield el("text", f"{at:%H:%M}", x=_across(x, minute), y=y, class_="tick", text_anchor="middle")
    yield el("text", "UTC", x=_WIDTH - _RIGHT, y=y + 18, class_="tick", text_anchor="end")


def _across(x: Linear, minute: float) -> float:
    return _LEFT + x.at(minute) * (_WIDTH - _LEFT - _RIGHT)
