"""A plan as markdown for Prefect's UI, which shows a picture that is within the text."""

import re
from base64 import b64encode
from collections.abc import Iterator

from flows.capacity.answer import told_of
from flows.capacity.curve import TITLE, monthly
from flows.capacity.markup import clean
from flows.capacity.page import picture
from flows.capacity.words import capital, goal, machines, money, percent, prose
from schedules.capacity.plan import Plan

_MARKS = re.compile(r"([\\`*_\[\]<>|~&])")


def summary(plan: Plan) -> str:
    """The answer, the curve, and what would be; names of models and machines are only text."""
    image = b64encode(picture(plan).encode()).decode()
    parts = [
        f"**{_text(plan.sentence)}**",
        f"![{TITLE}](data:image/svg+xml;base64,{image})",
        *([f"**What binds:** {_text(capital(plan.binding))}"] if plan.binding else []),
        *(f"*{_text(capital(note))}*" for note in plan.notes),
        "\n".join(_rows(plan)),
    ]
    return "\n\n".join(parts)


def _rows(plan: Plan) -> Iterator[str]:
    yield f"| | cluster | a month | attained, of {goal(plan.attainment)} |"
    yield "| --- | --- | ---: | ---: |"
    told = told_of(plan)
    named = [] if told is None else [("chosen" if plan.chosen else "closest", told)]
    for name, trial in (*named, *((each.name, each.trial) for each in plan.what_ifs)):
        cells = name, machines(trial.cluster), money(monthly(trial), plan.currency), percent(trial.attained)
        yield f"| {' | '.join(map(_text, cells))} |"


def _text(text: str) -> str:
    """As it is, on one line."""
    return prose(_MARKS.sub(r"\\\1", " ".join(clean(text).split())))
