"""Nodes' rates as a history has them: a node's own where it was seen often enough, else as much off as of nodes like it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

from schedules.facts import Node, Rate
from schedules.fitting.fitted import Quantity, Whence
from schedules.fitting.robust import Summed, sum_up
from schedules.fitting.samples import Of, Sample
from schedules.rates import REACHED, formed_degree, is_duration

FEWEST = 3
"""Samples that say something of a node."""
FARTHEST = 100.0
"""So many times as much as the node reports, or as little, is no measurement."""
_LINKS = ("nic", "ssd")


def rated(nodes: Sequence[Node], found: Mapping[Of, Sequence[Sample]]) -> tuple[tuple[Node, ...], tuple[Quantity, ...]]:
    """The nodes at the speeds that were seen, and how each of these was found. What nobody has seen is as it is reported."""
    fitted, quantities = list[Node](), list[Quantity]()
    for node in nodes:
        rates = dict(node.rates)
        for name in sorted({*node.rates, *(of.name for of in found if of.node == node.name)}):
            quantity, summed = _quantity(node, name, nodes, found)
            quantities.append(quantity)
            if summed is not None:
                rates[name] = _rate(name, quantity, summed)
        fitted.append(replace(node, rates=rates))
    return tuple(fitted), tuple(quantities)


def alike(one: Node, other: Node) -> bool:
    """Whether two nodes are of one kind, as far as they say."""
    return (one.device_bytes, one.dram_bytes, one.ssd_bytes, bool(one.gpu)) == (
        (other.device_bytes, other.dram_bytes, other.ssd_bytes, bool(other.gpu))
    )


def _quantity(
    node: Node, name: str, nodes: Sequence[Node], found: Mapping[Of, Sequence[Sample]]
) -> tuple[Quantity, Summed | None]:
    reported = node.rates[name].mean if name in node.rates else None
    own, far = _believable(found.get(Of(node.name, name), ()), reported)
    if len(own) >= FEWEST:
        summed = sum_up(own, _quantile(name))
        return _told(node, name, reported, Whence.OWN, summed, far), summed
    if reported is not None:
        ratios = _ratios(node, name, nodes, found)
        if len(ratios) >= FEWEST:
            of_them = sum_up(ratios, _quantile(name))
            value, low, high = (share * reported for share in (of_them.value, of_them.low, of_them.high))
            summed = Summed(value, low, high, of_them.samples, of_them.outliers)
            return _told(node, name, reported, Whence.ALIKE, summed, 0), summed
        return Quantity(node.name, name, reported, reported, Whence.REPORTED), None
    summed = sum_up(own or found[Of(node.name, name)], _quantile(name))
    return _told(node, name, reported, Whence.OWN, summed, far), summed  # few samples are better than none at all


def _ratios(node: Node, name: str, nodes: Sequence[Node], found: Mapping[Of, Sequence[Sample]]) -> list[Sample]:
    """Samples of it and of all like it, as shares of what each of them reports."""
    ratios = list[Sample]()
    for other in nodes:
        if alike(node, other) and name in other.rates:
            reported = other.rates[name].mean
            samples, _ = _believable(found.get(Of(other.name, name), ()), reported)
            ratios += [sample._replace(value=sample.value / reported) for sample in samples]
    return sorted(ratios)


def _believable(samples: Sequence[Sample], reported: float | None) -> tuple[list[Sample], int]:
    """Those that can be measurements, and how many cannot."""
    kept = [sample for sample in samples if isfinite(sample.value) and sample.value > 0.0]
    if reported is not None:
        kept = [sample for sample in kept if 1 / FARTHEST <= sample.value / reported <= FARTHEST]
    return kept, len(samples) - len(kept)


def _quantile(name: str) -> float:
    """What others use too is taken for as fast as it was seen at its good times, as nodes do themselves."""
    return REACHED[name] if name in _LINKS else 0.5


def _told(node: Node, name: str, reported: float | None, whence: Whence, summed: Summed, far: int) -> Quantity:
    return Quantity(
        node.name, name, summed.value, reported, whence, summed.samples, summed.outliers + far, summed.spread
    )


def _rate(name: str, quantity: Quantity, summed: Summed) -> Rate:
    slow = is_duration(name) or formed_degree(name) is not None
    bad = max(summed.high, summed.value) if slow else min(summed.low, summed.value)
    return Rate(quantity.value, bad, summed.samples)
