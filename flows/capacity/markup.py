"""Elements of HTML and SVG. Texts and attributes are escaped where they are written out, whoever they come from."""

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

SVG_XMLNS = "http://www.w3.org/2000/svg"
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
"""What neither HTML nor XML lets a document contain; a file could not even be encoded with lone surrogates."""
_TURNS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What makes the text behind it run the other way: a name would change how its neighbours read."""

Child = Element | str | None
Attribute = str | int | float | bool | None


def el(tag: str, *children: Child | Iterable[Child], **attributes: Attribute) -> Element:
    """An element. Of attributes' names a trailing underscore goes and others become dashes (`class_`, `stroke_width`);
    None and False are left out, True is an attribute without a value, numbers are written short."""
    element = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            element.set(name.rstrip("_").replace("_", "-"), _written(value))
    for child in children:
        for each in (child,) if child is None or isinstance(child, Element | str) else child:
            _add(element, each)
    return element


def clean(text: str) -> str:
    """The text as it may be shown: a letter that cannot be, or that would turn others round, is U+FFFD."""
    return _TURNS.sub("\ufffd", _NOT_TEXT.sub("\ufffd", text))


def html(root: Element) -> str:
    """A document."""
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"


def svg(root: Element) -> str:
    """A picture, as a file of its own."""
    root.set("xmlns", SVG_XMLNS)
    return tostring(root, encoding="unicode") + "\n"


def _add(element: Element, child: Child) -> None:
    if isinstance(child, Element):
        element.append(child)
    elif child is not None:
        text = clean(child)
        if len(element):
            element[-1].tail = (element[-1].tail or "") + text
        else:
            element.text = (element.text or "") + text


def _written(value: str | int | float | bool) -> str:
    if value is True:
        return ""
    return clean(value) if isinstance(value, str) else f"{value:.6g}"
