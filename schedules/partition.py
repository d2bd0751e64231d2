"""Splitting a model's layers into stages of equal bytes."""

from schedules.facts import Model


def stage_units(model: Model, first_layer: int, end_layer: int) -> tuple[int, ...]:
    """Indices into `model.units` of what the stage of layers [first_layer, end_layer) needs, in order of use.

    The first stage has the embedding, the last the head; with tied embeddings the last also has the embedding,
    whose matrix it multiplies with at the very end.
    """
    first, last = first_layer == 0, end_layer == model.layers
    units = list(range(first_layer + 1, end_layer + 1))
    if first:
        units.insert(0, 0)
    if last:
        units.append(model.layers + 1)
        if model.tied_embeddings and not first:
            units.append(0)
    return tuple(units)


def stage_bytes(model: Model, first_layer: int, end_layer: int) -> int:
    """Bytes of weights that the stage of layers [first_layer, end_layer) holds."""
    return sum(model.units[index].size_bytes for index in stage_units(model, first_layer, end_layer))


def split_layers(model: Model, degree: int) -> tuple[int, ...]:
    """Bounds b with stage i = layers [b[i], b[i+1]), every stage at least one layer, the heaviest stage the lightest
    possible: what bounds a pipeline's cold start is the stage with the most bytes to fetch.

    Raises ValueError unless 1 <= degree <= layers. Linear partition by dynamic programming, O(degree x layers^2).
    """
    if not 1 <= degree <= model.layers:
        raise ValueError(f"degree {degree} does not fit a model of {model.layers} layers")
    layers = model.layers
    prefix = [0]
    for unit in model.units[1 : layers + 1]:
        prefix.append(prefix[-1] + unit.size_bytes)
    embed, head = model.units[0].size_bytes, model.units[-1].size_bytes

    def weight(first: int, end: int) -> int:
        extra = embed if first == 0 else 0
        if end == layers:
            extra += head + (embed if model.tied_embeddings and first > 0 else 0)
        return prefix[end] - prefix[first] + extra

    heaviest: list[float] = [float("inf")] + [weight(0, end) for end in range(1, layers + 1)]
    cuts: list[list[int]] = []
    for stages in range(2, degree + 1):
        best, cut = [float("inf")] * (layers + 1), [0] * (layers + 1)
        for end in range(stages, layers + 1):
            for first in range(stages - 1, end):
                load = max(heaviest[first], weight(first, end))
                if load < best[end]:
                    best[end], cut[end] = load, first
        heaviest = best
        cuts.append(cut)
    bounds = [layers]
    for cut in reversed(cuts):
        bounds.append(cut[bounds[-1]])
    return (0, *reversed(bounds)) if degree > 1 else (0, layers)
