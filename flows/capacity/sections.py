"""What there is to say of the chosen cluster: what would be if something were other, how fast, how busy, and which models."""

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from xml.etree.ElementTree import Element

from flows.capacity import asked, bars
from flows.capacity.curve import attains
from flows.capacity.markup import Child, el
from flows.capacity.scales import Linear, from_zero, nines
from flows.capacity.tables import beyond, table
from flows.capacity.trials import PERCENTILES, what_would_be
from flows.capacity.words import DASH, capital, count, goal, limit, percent, portion, prose, seconds, size, used
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial

WORST_MODELS = 12
_FROM = {"remote": "the store", "peer": "other nodes", "ssd": "ssds", "dram": "dram"}


def section(title: str, about: str, *parts: Child | Iterable[Child]) -> Element:
    """A card of the page."""
    return el("section", el("h2", title), el("p", about, class_="small") if about else None, *parts)


def what_ifs(plan: Plan) -> Iterator[Element]:
    """None if nothing of the kind was played."""
    if not plan.what_ifs:
        return
    told = [] if plan.chosen is None else [("As planned", "", plan.chosen)]
    told += [(capital(each.name), prose(each.sentence), each.trial) for each in plan.what_ifs]
    scale = nines((trial.attained for _, _, trial in told), plan.attainment)
    rows = [
        _line(
            el("div", el("b", name), el("p", sentence, class_="small") if sentence else None),
            bars.around(trial.attained, plan.attainment, scale, f"{name}: {percent(trial.attained)}"),
            percent(trial.attained),
        )
        for name, sentence, trial in told
    ]
    yield section(
        "What if",
        f"Requests served within their levels: to the right of the line is more than the {goal(plan.attainment)} asked for.",
        el("ul", rows, _under(bars.ticks_around(plan.attainment, scale)), class_="rows told"),
        details("The figures", what_would_be(plan, ((name, trial) for name, _, trial in told))),
    )


def latency(plan: Plan, told: Trial) -> Element:
    """Percentiles against the limits."""
    limits = asked.limits(plan)
    kinds = (("All requests", "all", _finite(told.ttft_s)), ("Cold starts", "cold", _finite(told.cold_ttft_s)))
    scale = from_zero((*limits, *(value for _, _, values in kinds for value in values.values())))
    if not limits:
        words = "No limit was asked for"
    elif len(limits) == 1:
        words = f"The line is the limit of {limit(limits[0])}"
    else:
        words = (
            f"The band is from the strictest limit of a model, {limit(limits[0])}, to the loosest, {limit(limits[-1])}"
        )
    tpot = ", ".join(f"{name} {seconds(told.tpot_s.get(name))}" for name in PERCENTILES)
    return section(
        "Time to first token",
        f"{words}. {portion(told.cold)} of the requests waited for a start.",
        *(el("div", _percentiles(*kind, limits, scale)) for kind in kinds),
        el("ul", _under(bars.ticks_of_seconds(scale)), class_="rows"),
        el("p", f"Time per output token: {tpot}.", class_="small"),
    )


def usage(told: Trial) -> Element:
    """Of what there is, how much was used."""
    use = told.usage
    kinds = (
        ("Accelerators' memory", use.device, use.device_busiest),
        ("Network cards", use.network, use.network_busiest),
        ("Object store", use.store, use.store_busiest),
    )
    moved = ", ".join(
        f"{size(moved)} from {_FROM.get(name, name)}" for name, moved in told.moved_bytes.items() if moved
    )
    return section(
        "How busy it is",
        "The full colour and the first figure are the mean, the pale colour and the second the busiest minute.",
        el("ul", (_used(*kind) for kind in kinds), class_="rows busy"),
        el("p", f"Bytes moved: {moved}.", class_="small") if moved else None,
        el("p", f"{portion(told.unserved)} of the requests got no whole answer.", class_="small"),
    )


def models(plan: Plan, told: Trial) -> Element:
    """The worst in a picture, the others in a table that is folded away."""
    wanted = asked.models(plan)
    worst = sorted(told.by_model.items(), key=lambda each: (each[1], each[0]))
    scale = nines((share for _, share in worst[:WORST_MODELS]), plan.attainment)
    rows = [
        _line(
            el("span", name, class_="over", title=name),
            bars.around(share, plan.attainment, scale, f"{name}: {percent(share)}"),
            percent(share),
        )
        for name, share in worst[:WORST_MODELS]
    ]
    missed = sum(not attains(share, plan.attainment) for _, share in worst)
    return section(
        "By model, worst first",
        f"{missed:,} of {count(len(worst), 'model')} below the {goal(plan.attainment)} that are asked for of all together.",
        el("ul", rows, _under(bars.ticks_around(plan.attainment, scale)), class_="rows"),
        details(f"All {count(len(worst), 'model')}", _all_models(worst, wanted), beyond(len(worst))),
    )


def details(summary: str, *parts: Child) -> Element:
    """Folded away until somebody asks."""
    return el("details", el("summary", summary), *parts)


def _all_models(worst: Iterable[tuple[str, float]], wanted: Mapping[str, asked.Wanted]) -> Element:
    nothing = asked.Wanted()
    rows = ((name, percent(share), *_asked_of(wanted.get(name, nothing))) for name, share in worst)
    return table(("model", "attained", "requests", "TTFT limit", "TPOT limit"), rows, "Worst first")


def _asked_of(wanted: asked.Wanted) -> tuple[str, ...]:
    requests = DASH if wanted.requests is None else f"{wanted.requests:,}"
    return requests, *(DASH if each is None else limit(each) for each in (wanted.ttft_s, wanted.tpot_s))


def _percentiles(
    head: str, kind: str, values: Mapping[str, float], limits: tuple[float, ...], scale: Linear
) -> Iterator[Element]:
    yield el("h3", head)
    known = [(name, values[name]) for name in PERCENTILES if name in values]
    if known:
        rows = (
            _line(el("span", name), bars.upto(value, limits, scale, f"{head}, {name}", kind), seconds(value))
            for name, value in known
        )
        yield el("ul", rows, class_="rows")
    else:
        yield el("p", "There were none.", class_="small")


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isfinite(value)}


def _used(name: str, mean: float | None, busiest: float | None) -> Element:
    if mean is None or busiest is None:
        return el("li", el("span", name), el("span", "sets no limit", class_="small"))
    words = f"{name}: {used(mean)} in the mean, {used(busiest)} in the busiest minute"
    return _line(el("span", name), bars.used(mean, busiest, words), f"{used(mean)} / {used(busiest)}")


def _line(name: Element, bar: Element, value: str) -> Element:
    return el("li", name, bar, el("span", value, class_="value"))


def _under(ticks: Element) -> Element:
    return el("li", el("span"), ticks, class_="axis")
