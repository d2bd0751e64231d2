"""A plan as one HTML file that needs nothing else, for who decides about machines; and its curve as a picture."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from flows.capacity import bars, curve, style
from flows.capacity.markup import el, html, svg
from flows.capacity.scales import from_zero, nines
from flows.capacity.tables import beyond, shown, table
from flows.capacity.words import (
    DASH,
    HOURS_A_MONTH,
    TIMES,
    budgets,
    count,
    goal,
    machines,
    money,
    percent,
    rate,
    seconds,
    size,
    used,
)
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial

WORST_MODELS = 12
_WIDTH, _HEIGHT = 920, 480
_PERCENTILES = ("p50", "p95", "p99")


def page(plan: Plan, made_at: str) -> str:
    """The report. It asks for nothing from anywhere and runs no script; whatever text the plan has is only text."""
    told = _told(plan)
    parts = [
        el("p", f"Capacity plan {DASH} firsttoken, {made_at}", class_="eyebrow"),
        el("h1", plan.sentence),
        *_first(plan, told),
        _curve(plan),
        *_what_ifs(plan),
        *([] if told is None else [el("div", _latency(plan, told), _usage(told), class_="pair"), _models(plan, told)]),
        _tried(plan),
        *_settings(plan),
        _inputs(plan),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"Capacity plan: {plan.sentence}"),
        el("style", style.for_page()),
    )
    return html(el("html", head, el("body", el("main", parts)), lang="en"))


def picture(plan: Plan) -> str:
    """SVG: attainment against cost, with the answer over it."""
    area = el("svg", curve.marks(plan), x=74, y=76, width=_WIDTH - 104, height=_HEIGHT - 136, overflow="visible")
    whole = el(
        "svg",
        el("title", plan.sentence),
        el("desc", curve.description(plan)),
        el("style", style.for_picture()),
        el("rect", width="100%", height="100%", style="fill:var(--card)"),
        el("text", plan.sentence, x=24, y=34, class_="head"),
        el("text", curve.TITLE, x=24, y=54),
        area,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=_WIDTH,
        height=_HEIGHT,
        role="img",
    )
    return svg(whole)


def _told(plan: Plan) -> Trial | None:
    """Which trial there is more to say of: the chosen one, else the best, of several the cheapest."""
    if plan.chosen is not None:
        return plan.chosen
    return min(plan.tried, key=lambda trial: (-trial.attained, trial.price_per_h), default=None)


def _first(plan: Plan, told: Trial | None) -> Iterator[Element]:
    if told is None:
        return
    if plan.chosen is None:
        yield el("p", f"Of all that was tried this came closest: {machines(told.cluster)}.")
    price = money(curve.monthly(told), plan.currency), money(told.price_per_h, plan.currency)
    each = told.price_per_mtok
    yield el(
        "dl",
        _fact(
            "Price",
            f"{price[0]} a month",
            f"{price[1]} an hour; {money(each, plan.currency)} a million tokens of answers",
        ),
        _fact("Machines", machines(told.cluster), _memory(told)),
        _fact("Network", _network(told), _store(told)),
        _fact(
            "Served within their levels",
            percent(told.attained),
            el("span", _verdict(told.attained, plan.attainment), f" {goal(plan.attainment)} asked for"),
        ),
        class_="facts",
    )
    yield el("p", el("b", "What binds"), plan.binding, class_="binds")


def _fact(name: str, big: str, small: str | Element) -> Element:
    return el("div", el("dt", name), el("dd", big, class_="big"), el("dd", small, class_="small"))


def _memory(trial: Trial) -> str:
    cluster = trial.cluster
    kinds = (("dram", cluster.dram_bytes), ("ssd", cluster.ssd_bytes))
    known = [f"{budgets(sizes)} {name}" for name, sizes in kinds if sizes]
    return f"each with {' and '.join(known)}" if known else "each with all of its dram and ssd"


def _network(trial: Trial) -> str:
    times = trial.cluster.network
    return "its own cards" if times == 1 else f"{times:g}{TIMES} its cards"


def _store(trial: Trial) -> str:
    limit = trial.cluster.store_bytes_per_s
    return "the store sets no limit" if limit is None else f"the store gives {rate(limit)} to all together"


def _verdict(share: float, wanted: float) -> Element:
    enough = share >= wanted
    return el("span", "✓ attained," if enough else "✗ missed,", class_=f"verdict {'yes' if enough else 'no'}")


def _curve(plan: Plan) -> Element:
    plot = el(
        "svg",
        el("title", curve.TITLE, id="curve-title"),
        el("desc", curve.description(plan), id="curve-words"),
        curve.marks(plan),
        width="100%",
        height=340,
        role="img",
        aria_labelledby="curve-title curve-words",
    )
    key = [
        (el("circle", cx=12, cy=8, r=5, class_="best"), "the best at each price"),
        (el("circle", cx=12, cy=8, r=4, class_="tried"), "also tried"),
    ]
    if plan.chosen is not None:
        key.insert(0, (el("circle", cx=12, cy=8, r=5.5, class_="ring"), "chosen"))
    legend = el("ul", (el("li", el("svg", mark, width=24, height=16), words) for mark, words in key), class_="key")
    return el(
        "section",
        el("h2", "What a better service costs"),
        el("p", f"{curve.TITLE}. Each nine more is as far again.", class_="small"),
        legend,
        el("figure", el("div", plot, class_="plot")),
    )


def _what_ifs(plan: Plan) -> Iterator[Element]:
    if not plan.what_ifs:
        return
    told = [] if plan.chosen is None else [("As planned", "", plan.chosen)]
    told += [(each.name, each.sentence, each.trial) for each in plan.what_ifs]
    scale = nines((trial.attained for _, _, trial in told), plan.attainment)
    rows = [
        el(
            "li",
            el("span", name),
            bars.around(trial.attained, plan.attainment, scale, f"{name}: {percent(trial.attained)}"),
            el("span", percent(trial.attained), class_="value"),
            el("p", sentence, class_="said small") if sentence else None,
        )
        for name, sentence, trial in told
    ]
    yield el(
        "section",
        el("h2", "What if"),
        el("p", "Served within their levels; from the target, to the right is more than asked for.", class_="small"),
        el("ul", rows, el("li", el("span"), bars.ticks_around(plan.attainment, scale), el("span")), class_="rows"),
        _details("The figures", _trials(plan, [(name, trial) for name, _, trial in told], "What-ifs")),
    )


def _latency(plan: Plan, told: Trial) -> Element:
    limits = _limits(plan.inputs, "ttft_s")
    kinds = [("All requests", "all", told.ttft_s), ("Cold starts", "cold", told.cold_ttft_s)]
    scale = from_zero((*limits, *(value for _, _, values in kinds for value in values.values())))
    rows = [row for head, kind, values in kinds for row in _percentiles(head, kind, values, limits, scale)]
    wanted = (
        f"limit {seconds(limits[0])}"
        if len(limits) == 1
        else f"limits {seconds(limits[0])} to {seconds(limits[-1])}"
        if limits
        else "no limit"
    )
    return el(
        "section",
        el("h2", "Time to first token"),
        el("p", f"{wanted}; {percent(told.cold)} waited for a start.", class_="small"),
        el("ul", rows, el("li", el("span"), bars.ticks_of_seconds(scale), el("span")), class_="rows"),
        el(
            "p",
            "Time per output token: ",
            ", ".join(f"{name} {seconds(told.tpot_s.get(name))}" for name in _PERCENTILES),
            class_="small",
        ),
    )


def _percentiles(
    head: str, kind: str, values: Mapping[str, float], limits: tuple[float, ...], scale: Any
) -> Iterator[Element]:
    yield el("li", el("span", head, class_="head"))
    for name in _PERCENTILES:
        value = values.get(name)
        if value is not None:
            words = f"{head}, {name}: {seconds(value)}"
            yield el(
                "li",
                el("span", name),
                bars.upto(value, limits, scale, words, kind),
                el("span", seconds(value), class_="value"),
            )


def _limits(value: Any, name: str) -> tuple[float, ...]:
    """All limits that the inputs have, the strictest first."""
    found: set[float] = set()
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, Mapping):
            if isinstance(each.get(name), int | float):
                found.add(float(each[name]))
            todo += each.values()
        elif isinstance(each, list | tuple):
            todo += each
    return tuple(sorted(found))


def _usage(told: Trial) -> Element:
    usage = told.usage
    kinds = (
        ("Accelerators' memory", usage.device, usage.device_busiest),
        ("Network cards", usage.network, usage.network_busiest),
        ("Object store", usage.store, usage.store_busiest),
    )
    rows = []
    for name, mean, busiest in kinds:
        if mean is None or busiest is None:
            rows.append(el("li", el("span", name), el("span", "sets no limit", class_="small"), el("span")))
            continue
        words = f"{name}: {used(mean)} in the mean, {used(busiest)} in the busiest minute"
        rows.append(
            el(
                "li",
                el("span", name),
                bars.used(mean, busiest, words),
                el("span", f"{used(mean)} / {used(busiest)}", class_="value"),
            )
        )
    moved = ", ".join(f"{size(moved)} by {name}" for name, moved in told.moved_bytes.items() if moved)
    return el(
        "section",
        el("h2", "How busy it is"),
        el("p", "Mean, and behind it the busiest minute.", class_="small"),
        el("ul", rows, class_="rows"),
        el("p", f"Moved: {moved}.", class_="small") if moved else None,
    )


def _models(plan: Plan, told: Trial) -> Element:
    worst = sorted(told.by_model.items(), key=lambda each: (each[1], each[0]))
    scale = nines((share for _, share in worst), plan.attainment)
    rows = [
        el(
            "li",
            el("span", name, class_="over"),
            bars.around(share, plan.attainment, scale, f"{name}: {percent(share)}"),
            el("span", percent(share), class_="value"),
        )
        for name, share in worst[:WORST_MODELS]
    ]
    missed = sum(share < plan.attainment for _, share in worst)
    rest = worst[WORST_MODELS:]
    return el(
        "section",
        el("h2", "By model, worst first"),
        el("p", f"{missed:,} of {count(len(worst), 'model')} below the target.", class_="small"),
        el("ul", rows, el("li", el("span"), bars.ticks_around(plan.attainment, scale), el("span")), class_="rows"),
        _details(
            count(len(rest), "more model"),
            table(("model", "attained"), ((name, percent(share)) for name, share in rest), "The other models"),
            beyond(len(rest)),
        )
        if rest
        else None,
    )


def _tried(plan: Plan) -> Element:
    trials = sorted(plan.tried, key=lambda trial: (trial.price_per_h, trial.name))
    marked = next((place for place, trial in enumerate(trials) if trial == plan.chosen), None)
    whole = _trials(plan, [(trial.name, trial) for trial in trials], "Cheapest first; the chosen one is marked", marked)
    return el("section", el("h2", "Everything that was tried"), whole)


def _trials(plan: Plan, trials: Iterable[tuple[str, Trial]], about: str, marked: int | None = None) -> Element:
    heads = (
        "cluster", "machines", "dram", "ssd", "a month", "an hour", "attained", "target", "TTFT p50", "p95", "p99", "cold p99",
        "TPOT p99", "cold", "unserved", "a million tokens", "requests",
    )  # fmt: skip
    return table(heads, (_figures(plan, name, trial) for name, trial in trials), about, marked)


def _figures(plan: Plan, name: str, trial: Trial) -> list[str]:
    return [
        name,
        machines(trial.cluster),
        budgets(trial.cluster.dram_bytes),
        budgets(trial.cluster.ssd_bytes),
        money(curve.monthly(trial), plan.currency),
        money(trial.price_per_h, plan.currency),
        percent(trial.attained),
        "✓" if trial.attained >= plan.attainment else "✗",
        *(seconds(trial.ttft_s.get(each)) for each in _PERCENTILES),
        seconds(trial.cold_ttft_s.get("p99")),
        seconds(trial.tpot_s.get("p99")),
        percent(trial.cold),
        percent(trial.unserved),
        money(trial.price_per_mtok, plan.currency),
        f"{trial.requests:,}",
    ]


def _settings(plan: Plan) -> Iterator[Element]:
    if plan.settings:
        blocks = (
            part
            for name, chosen in plan.settings.items()
            for part in (el("h3", name), el("pre", _toml(chosen), tabindex=0))
        )
        words = "One firsttoken.toml for each type of node; a click marks all of it."
        yield el("section", el("h2", "Settings"), el("p", words, class_="small"), blocks)


def _toml(chosen: Mapping[str, Any]) -> str:
    sections: dict[str, list[str]] = {}
    for name, value in chosen.items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n\n".join("\n".join([f"[{section}]"] * bool(section) + lines) for section, lines in sections.items())


def _inputs(plan: Plan) -> Element:
    return el(
        "section",
        el("h2", "What was asked"),
        _details("All inputs", shown(plan.inputs)),
        el(
            "p",
            f"A month is {HOURS_A_MONTH} hours. Played by firsttoken's own scheduler under a virtual clock.",
            class_="small",
        ),
    )


def _details(summary: str, *parts: Element | None) -> Element:
    return el("details", el("summary", summary), *parts)
