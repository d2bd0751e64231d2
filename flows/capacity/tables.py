"""Tables, and whatever JSON has to say in them; long ones are cut, and say so."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from xml.etree.ElementTree import Element

from flows.capacity.markup import Child, el
from flows.capacity.words import count

MOST_ROWS = 1000
_DEEPEST = 6
_EXACT = 1e15


def table(heads: Sequence[str], rows: Iterable[Sequence[Child]], about: str, marked: int | None = None) -> Element:
    """The first column names the row, the others are figures. `about` is its caption; the row `marked` stands out."""
    lines = list(islice(rows, MOST_ROWS))
    head = el("tr", (el("th", each, scope="col") for each in heads))
    body = (_row(line, "marked" if place == marked else None) for place, line in enumerate(lines))
    caption = el("caption", about) if about else None
    whole = el("table", caption, el("thead", head), el("tbody", body))
    return el("div", whole, class_="wide-table", tabindex=0, role="region", aria_label=about or "a table")


def beyond(rows: int) -> Element | None:
    """What is said under a table that was cut."""
    left = rows - MOST_ROWS
    return (
        el("p", f"{count(left, 'more row')} not shown; the plan's JSON has all of them.", class_="small")
        if left > 0
        else None
    )


def shown(value: Any, depth: int = 0) -> Element:
    """JSON for people: what is alike as a table, what has names as a list of names, the rest as it is."""
    if isinstance(value, Mapping) and value and depth < _DEEPEST:
        if all(map(_is_flat, value.values())):
            return el("div", _records(value.values(), list(value)), beyond(len(value)))
        return el("dl", _named(value, depth), beyond(len(value)))
    if _is_list(value) and value and depth < _DEEPEST:
        if all(map(_is_flat, value)):
            return el("div", _records(value), beyond(len(value)))
        if all(map(_is_scalar, value)):
            return el("span", _listed(value[:MOST_ROWS]), beyond(len(value)))
        return el("ol", (el("li", shown(each, depth + 1)) for each in value[:MOST_ROWS]), beyond(len(value)))
    return el("span", scalar(value))


def scalar(value: Any) -> str:
    """One value, whatever it is; none is said so."""
    if value is None or value == () or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < _EXACT):
        return f"{value:,.0f}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _named(value: Mapping[str, Any], depth: int) -> Iterator[Element]:
    for name, what in islice(value.items(), MOST_ROWS):
        yield el("dt", str(name))
        yield el("dd", shown(what, depth + 1))


def _records(records: Iterable[Mapping[str, Any]], names: Sequence[str] = ()) -> Element:
    """One a row; of those that have `names` these come first."""
    listed = list(islice(records, MOST_ROWS))
    heads = list(dict.fromkeys(name for record in listed for name in record))
    rows = [[_cell(record.get(head)) for head in heads] for record in listed]
    if names:
        return table(("", *map(str, heads)), ([str(name), *row] for name, row in zip(names, rows, strict=False)), "")
    return table(list(map(str, heads)), rows, "")


def _cell(value: Any) -> str:
    return _listed(value) if _is_list(value) else scalar(value)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(scalar, values)) or "none"


def _is_flat(value: Any) -> bool:
    """Whether it fits a row."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(_is_scalar(each) or (_is_list(each) and all(map(_is_scalar, each))) for each in value.values())
    )


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Mapping) and not _is_list(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _row(line: Sequence[Child], kind: str | None) -> Element:
    first, *rest = line
    return el("tr", el("th", first, scope="row"), (el("td", each) for each in rest), class_=kind)
