"""A plan as one HTML file that needs nothing else, for who decides about machines; and its curve as a picture."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from flows.capacity import curve, style
from flows.capacity.answer import answer, told_of
from flows.capacity.markup import el, html
from flows.capacity.paper import on_paper
from flows.capacity.sections import details, latency, models, section, usage, what_ifs
from flows.capacity.tables import shown
from flows.capacity.trials import everything
from flows.capacity.words import HOURS_A_MONTH, SPACE
from schedules.capacity.plan import Plan

_NOTHING_ELSE = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH, _HEIGHT = 920, 460
_LEFT, _RIGHT, _UNDER = 74, 30, 60
_LETTERS, _LINES = 92, 3


def page(plan: Plan, made_at: str) -> str:
    """The report. It asks for nothing from anywhere and runs no script; whatever text the plan has is only text."""
    told = told_of(plan)
    parts = [
        el(
            "header",
            el("p", f"firsttoken {SPACE}/{SPACE} capacity plan {SPACE}/{SPACE} {made_at}", class_="eyebrow"),
            answer(plan, told),
        ),
        _curve(plan) if plan.tried else None,
        what_ifs(plan),
        *(() if told is None else (el("div", latency(plan, told), usage(told), class_="pair"), models(plan, told))),
        section("Everything that was tried", "", everything(plan)) if plan.tried else None,
        _settings(plan),
        _inputs(plan),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_NOTHING_ELSE),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"Capacity plan: {plan.sentence}"),
        el("style", style.for_page()),
    )
    return html(el("html", head, el("body", el("main", *parts)), lang="en"))


def picture(plan: Plan) -> str:
    """SVG: attainment against cost, with the answer over it."""
    lines = textwrap.wrap(plan.sentence, _LETTERS, max_lines=_LINES, placeholder=" …")
    top = 30 + 22 * len(lines)
    height = _HEIGHT + top
    area = el(
        "svg", curve.marks(plan), x=_LEFT, y=top + 40, width=_WIDTH - _LEFT - _RIGHT, height=_HEIGHT - 40 - _UNDER
    )
    area.set("overflow", "visible")
    return on_paper(
        plan.sentence,
        curve.description(plan),
        _WIDTH,
        height,
        *(el("text", line, x=24, y=34 + 22 * place, class_="head") for place, line in enumerate(lines)),
        el("text", curve.TITLE, x=24, y=top + 12),
        area,
    )


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
    key = (el("li", el("svg", mark, width=24, height=16, aria_hidden="true"), words) for mark, words in curve.key(plan))
    return section(
        "What a better service costs",
        f"{curve.TITLE}. 90, 99 and 99.9{SPACE}% are drawn equally far apart.",
        el("ul", key, class_="key"),
        el("div", plot, class_="plot"),
    )


def _settings(plan: Plan) -> Iterator[Element]:
    if plan.settings:
        blocks = (
            part
            for name, chosen in plan.settings.items()
            for part in (el("h3", name), el("pre", toml(chosen), tabindex=0))
        )
        yield section(
            "Settings", "A firsttoken.toml for each type of machine. A click marks all of it, to be copied.", *blocks
        )


def toml(chosen: Mapping[str, Any]) -> str:
    """Settings by "section.key", as a settings file has them."""
    sections: dict[str, list[str]] = {}
    for name, value in chosen.items():
        heading, _, key = name.rpartition(".")
        sections.setdefault(heading, []).append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n\n".join(
        "\n".join([*([f"[{heading}]"] if heading else []), *lines]) for heading, lines in sections.items()
    )


def _inputs(plan: Plan) -> Element:
    about = (
        f"Requests were played to firsttoken's own scheduler under a virtual clock. A month has {HOURS_A_MONTH} hours."
    )
    return section("What was asked", about, details("All inputs", shown(plan.inputs)))
