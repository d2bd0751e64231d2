"""Choosing the nodes of a group. The degree is a parameter; what each node already holds decides between nodes."""

from collections.abc import Sequence
from itertools import pairwise

from schedules.facts import Model, Node, NoPlacement, Placement, StagePlan, View
from schedules.partition import split_layers, stage_bytes, stage_units

TIER_WORTH = {"dram": 1.0, "ssd": 0.9}
"""Share of a unit's fetch that is saved when a node holds it in that tier."""


def place(model: Model, view: View, degree: int, kv_tokens: int) -> Placement | NoPlacement:
    """A group of up to `degree` stages on as many nodes, with room for `kv_tokens` tokens of KV cache in all.

    Fewer stages when there are fewer layers or nodes with room. Nodes that hold more of the stage's bytes win,
    then nodes with more free memory, then the name; the result is the same for the same facts.
    """
    usable = [node for node in view.nodes if not node.draining]
    if not usable:
        return NoPlacement("no node is connected: start one with 'firsttoken node' or wait until one has joined")
    reasons: list[str] = []
    for wanted in range(min(degree, model.layers, len(usable)), 0, -1):
        bounds = split_layers(model, wanted)
        stages = _assign(model, usable, bounds, kv_tokens)
        if isinstance(stages, str):
            reasons.append(f"degree {wanted} ruled out: {stages}")
            continue
        if wanted < degree:
            reasons.append(
                f"degree {wanted} of {degree} wanted: {len(usable)} nodes connected, {model.layers} layers to split"
            )
        reasons.append("stages split by bytes; each on the free node that holds most of them")
        return Placement(model.name, stages, kv_tokens, tuple(reasons))
    return NoPlacement(f"no room for {model.name} on the connected nodes now: " + "; ".join(reasons))


def _assign(model: Model, nodes: Sequence[Node], bounds: Sequence[int], kv_tokens: int) -> tuple[StagePlan, ...] | str:
    """One node per stage, the one that needs most choosing first; or why it does not fit.

    What fits one stage then fits all that choose after it, so a node is found for each whenever that is possible.
    """
    plans: dict[int, StagePlan] = {}
    free = {node.name: node for node in nodes}
    spans = list(pairwise(bounds))
    weights = [stage_bytes(model, first, end) for first, end in spans]
    caches = [-(-model.kv_bytes_per_token * kv_tokens * (end - first) // model.layers) for first, end in spans]
    for index in sorted(range(len(spans)), key=lambda i: -(weights[i] + caches[i])):
        (first, end), weight, kv_bytes = spans[index], weights[index], caches[index]
        units = [model.units[i] for i in stage_units(model, first, end)]
        fitting = [node for node in free.values() if node.device_free_bytes >= weight + kv_bytes]
        if not fitting:
            return (
                f"layers {first}-{end - 1} need {(weight + kv_bytes) / 1e9:.2f} GB and no node left has that much free"
            )
        chosen = min(
            fitting,
            key=lambda node: (
                -sum(TIER_WORTH.get(node.units.get(u.digest, ""), 0.0) * u.size_bytes for u in units),
                -node.device_free_bytes,
                node.name,
            ),
        )
        del free[chosen.name]
        plans[index] = StagePlan(chosen.name, first, end, tuple(u.name for u in units), weight, kv_bytes)
    return tuple(plans[i] for i in range(len(spans)))
