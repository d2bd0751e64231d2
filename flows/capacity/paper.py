"""A picture as a file of its own: on paper, in our colours, with its words for those who do not see it."""

from flows.capacity import style
from flows.capacity.markup import Child, el, svg


def on_paper(title: str, description: str, width: int, height: float, *parts: Child, own_style: str = "") -> str:
    """SVG of the parts, whose `own_style` is theirs alone."""
    return svg(
        el(
            "svg",
            el("title", title),
            el("desc", description),
            el("style", style.for_picture() + own_style),
            el("rect", width="100%", height="100%", class_="paper"),
            *parts,
            viewBox=f"0 0 {width} {height}",
            width=width,
            height=height,
            role="img",
        )
    )
