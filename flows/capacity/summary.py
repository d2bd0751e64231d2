"""A plan as markdown for Prefect's UI, which shows a picture that is within the text."""

from collections.abc import Iterator

from flows import markdown
from flows.capacity.answer import told_of
from flows.capacity.curve import TITLE, monthly
from flows.capacity.page import picture
from flows.capacity.words import capital, goal, machines, money, percent
from flows.markdown import text
from schedules.capacity.plan import Plan


def summary(plan: Plan) -> str:
    """The answer, the curve, and what would be; names of models and machines are only text."""
    parts = [
        f"**{text(plan.sentence)}**",
        markdown.picture(TITLE, picture(plan)),
        *([f"**What binds:** {text(capital(plan.binding))}"] if plan.binding else []),
        *(f"*{text(capital(note))}*" for note in plan.notes),
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
        yield f"| {' | '.join(map(text, cells))} |"
