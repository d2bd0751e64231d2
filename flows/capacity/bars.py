"""Bars, each in a row of its own; places are in percent of the row's width."""

from xml.etree.ElementTree import Element

from flows.capacity.curve import attains
from flows.capacity.markup import el
from flows.capacity.scales import Linear, Nines
from flows.capacity.words import goal, limit

HEIGHT = 26
_TOP, _THICK = 6, 14
_APART = 0.19


def around(share: float, wanted: float, scale: Nines, words: str) -> Element:
    """From the target to what became of it: to the right if that is more, to the left if it is less."""
    here, there = scale.at(wanted), scale.at(share)
    kind = "more" if attains(share, wanted) else "less"
    return _row(
        words,
        _bar(min(here, there), max(here, there), kind),
        _mark(here, "goal"),
        el("circle", cx=_at(there), cy=_TOP + _THICK / 2, r=5, class_=kind),
    )


def upto(value: float, limits: tuple[float, ...], scale: Linear, words: str, kind: str) -> Element:
    """From zero; a line at the limit, or a band from the lowest to the highest if there are several."""
    marks = []
    if limits:
        low, high = scale.at(limits[0]), scale.at(limits[-1])
        if low < high:
            marks.append(el("rect", x=_at(low), width=_at(high - low), y=0, height=HEIGHT, class_="band"))
        marks += [_mark(low, "goal"), *([_mark(high, "goal")] if low < high else [])]
    return _row(words, _bar(0, scale.at(value), kind), *marks)


def used(mean: float, busiest: float, words: str) -> Element:
    """Of the whole: the mean solid, the busiest minute behind it."""
    return _row(words, _bar(0, 1, "empty"), _bar(0, min(1.0, busiest), "busiest"), _bar(0, min(1.0, mean), "mean"))


def ticks_around(wanted: float, scale: Nines) -> Element:
    """The axis of bars around a target."""
    labels = [_label(scale.at(share), goal(share), "tick") for share in scale.ticks(wanted, _APART)]
    return _axis(_label(scale.at(wanted), goal(wanted), "tick goal"), *labels)


def ticks_of_seconds(scale: Linear) -> Element:
    """The axis of bars from zero."""
    return _axis(*(_label(scale.at(tick), limit(tick) if tick else "0", "tick") for tick in scale.ticks(3)))


def _row(words: str, *marks: Element) -> Element:
    return el("svg", el("title", words), *marks, class_="bar", width="100%", height=HEIGHT, role="img")


def _axis(*labels: Element) -> Element:
    return el("svg", *labels, class_="bar", width="100%", height=20, aria_hidden="true")


def _bar(left: float, right: float, kind: str) -> Element:
    return el("rect", x=_at(left), width=_at(right - left), y=_TOP, height=_THICK, rx=2, class_=kind)


def _mark(place: float, kind: str) -> Element:
    return el("line", x1=_at(place), x2=_at(place), y1=0, y2=HEIGHT, class_=kind)


def _label(place: float, words: str, kind: str) -> Element:
    anchor = "start" if place < 0.04 else "end" if place > 0.96 else "middle"
    return el("text", words, x=_at(place), y=14, text_anchor=anchor, class_=kind)


def _at(place: float) -> str:
    return f"{place * 100:.2f}%"
