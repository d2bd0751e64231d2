"""Attainment against cost. Places are in percent of the plot, so that it takes any size and its letters keep theirs."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

from flows.capacity.markup import el
from flows.capacity.scales import Linear, Nines, from_zero, nines
from flows.capacity.words import HOURS_A_MONTH, goal, machines, money, percent
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial

TITLE = "Requests served within their levels, against the price of the cluster"
_TICKS_OF_PRICE = 5
_APART = 0.07
_LETTER, _NARROW = 7.4, 560.0
"""About the width of a letter, and of the narrowest plot that has labels, in pixels."""
_EPSILON = 1e-9


def attains(share: float, wanted: float) -> bool:
    """Shares are quotients of floats."""
    return share >= wanted - _EPSILON


def monthly(trial: Trial) -> float:
    """What a month of it costs."""
    return trial.price_per_h * HOURS_A_MONTH


def said(trial: Trial, currency: str) -> str:
    """A trial in a line."""
    price = f"{money(monthly(trial), currency)} a month, {money(trial.price_per_h, currency)} an hour"
    return f"{machines(trial.cluster)}: {percent(trial.attained)}, {price}"


def description(plan: Plan) -> str:
    """The plot in words, for who does not see it."""
    points = "; ".join(said(trial, plan.currency) for trial in _best(plan.curve))
    return f"The target is {goal(plan.attainment)}. The best for its price: {points or 'nothing'}."


def key(plan: Plan) -> Iterator[tuple[Element, str]]:
    """What the marks mean."""
    if plan.chosen is not None:
        yield el("circle", cx=12, cy=8, r=6, class_="ring"), "chosen"
    yield el("circle", cx=12, cy=8, r=4.5, class_="best"), "the best for its price"
    yield el("circle", cx=12, cy=8, r=4, class_="tried"), "also tried"


def marks(plan: Plan) -> list[Element]:
    """All that is drawn, in an area that lets what is beside it be seen: labels of axes stand there."""
    trials, best = _shown(plan), _best(plan.curve)
    x = from_zero(monthly(trial) for trial in trials)
    y = nines((trial.attained for trial in trials), plan.attainment)
    return [
        *_axes(plan, x, y),
        *_line(best, x, y),
        *(_point(trial, plan, x, y, "tried", 4) for trial in trials if trial not in (*best, plan.chosen)),
        *(_point(trial, plan, x, y, "best", 4.5) for trial in best if trial != plan.chosen),
        *_chosen(plan, x, y),
    ]


def _shown(plan: Plan) -> list[Trial]:
    """Each once, whichever of the lists it is in."""
    chosen = () if plan.chosen is None else (plan.chosen,)
    found: list[Trial] = []
    for trial in (*plan.tried, *plan.curve, *chosen):
        if trial not in found:
            found.append(trial)
    return found


def _axes(plan: Plan, x: Linear, y: Nines) -> Iterator[Element]:
    wanted = y.at(plan.attainment)
    yield el("rect", x="0", y="0", width="100%", height=_share(1 - wanted), class_="enough")
    for share in y.ticks(plan.attainment, _APART):
        yield _across(y.at(share), "grid")
        yield el("text", goal(share), x="-10", y=_up(y.at(share)), dy="0.32em", class_="tick", text_anchor="end")
    for place, price in enumerate(x.ticks(_TICKS_OF_PRICE)):
        label = money(price, plan.currency)
        kind = "tick spare" if place % 2 else "tick"
        yield el("text", label, x=_share(x.at(price)), y="100%", dy="20", class_=kind, text_anchor="middle")
    yield _across(0, "axis")
    yield _across(wanted, "goal")
    yield el("text", goal(plan.attainment), x="-10", y=_up(wanted), dy="0.32em", class_="tick goal", text_anchor="end")
    yield el("text", "target", x="100%", y=_up(wanted), dy="15", dx="-4", class_="tick goal", text_anchor="end")
    yield el("text", "price per month", x="100%", y="100%", dy="40", class_="tick", text_anchor="end")


def _best(curve: Iterable[Trial]) -> list[Trial]:
    """Those than which nothing cheaper is as good."""
    found: list[Trial] = []
    for trial in curve:
        if not found or trial.attained > found[-1].attained:
            found.append(trial)
    return found


def _line(best: Sequence[Trial], x: Linear, y: Nines) -> Iterator[Element]:
    """What can be had for so much money or less: in steps, for nothing can be bought between two machines."""
    places = [(x.at(monthly(trial)), y.at(trial.attained)) for trial in best]
    for (across, up), (then, higher) in pairwise(places):
        yield _stroke(across, up, then, up)
        yield _stroke(then, up, then, higher)
    for across, up in places[-1:]:
        yield _stroke(across, up, 1.0, up)


def _point(trial: Trial, plan: Plan, x: Linear, y: Nines, kind: str, radius: float) -> Element:
    words = el("title", said(trial, plan.currency))
    return el("circle", words, cx=_share(x.at(monthly(trial))), cy=_up(y.at(trial.attained)), r=radius, class_=kind)


def _chosen(plan: Plan, x: Linear, y: Nines) -> Iterator[Element]:
    trial = plan.chosen
    if trial is None:
        return
    across, up = x.at(monthly(trial)), y.at(trial.attained)
    yield el("line", x1=_share(across), x2=_share(across), y1=_up(up), y2="100%", class_="drop")
    yield _point(trial, plan, x, y, "ring", 10)
    yield _point(trial, plan, x, y, "chosen", 5.5)
    words = f"{machines(trial.cluster)}, {percent(trial.attained)}"
    label = {"x": _share(across), "class_": "label"}
    if across * _NARROW > len(words) * _LETTER + 20:  # nothing is cheaper and better: there is room on the left
        yield el("text", words, y=_up(up), dx=-14, dy=-12, text_anchor="end", **label)
    else:
        yield el("text", words, y=_up(min(up, y.at(plan.attainment))), dx=8, dy=20, **label)


def _stroke(x1: float, y1: float, x2: float, y2: float) -> Element:
    return el("line", x1=_share(x1), y1=_up(y1), x2=_share(x2), y2=_up(y2), class_="curve")


def _across(up: float, kind: str) -> Element:
    return el("line", x1="0", x2="100%", y1=_up(up), y2=_up(up), class_=kind)


def _share(place: float) -> str:
    return f"{place * 100:.2f}%"


def _up(place: float) -> str:
    return _share(1 - place)
