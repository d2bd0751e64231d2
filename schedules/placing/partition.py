"""Splitting a model's layers into stages that wait for equally many bytes."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import pairwise

from schedules.facts import Model, Unit, Widths
from schedules.placing.workspace import NO_WORKSPACE, StageShape, Workspace, workspace_of


@dataclass(frozen=True)
class Part:
    """Layers [first_layer, end_layer) of a model, and what a stage needs that runs them. `units` are indices of the
    model's, in order of use; `runs` are the same as ranges; the first token does not wait for those of `later`. The
    `workspace` is empty where no stage computes on a GPU."""

    first_layer: int
    end_layer: int
    units: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    later: frozenset[int]
    weight_bytes: int
    kv_bytes: int
    workspace: Workspace = NO_WORKSPACE

    @cached_property
    def reserve_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.workspace.inside_bytes + self.workspace.outside_bytes


def parts_of(model: Model, degree: int, kv_tokens: int, *, gpus: bool = False) -> tuple[Part, ...]:
    """The model split over `degree` stages, with room for so many tokens; with `gpus` for what is computed of them too.
    ValueError as of `split_layers`."""
    sizes = model.sizes
    kv_bytes = model.kv_bytes_per_token * kv_tokens
    parts = _parts(sizes, model.tied_embeddings, model.rows_first, degree, kv_bytes)
    if not gpus or model.widths is None:
        return parts
    return _with_workspaces(parts, model.widths, kv_tokens, model.kv_bytes_per_token)


@lru_cache(maxsize=1024)
def _parts(sizes: tuple[int, ...], tied: bool, rows_first: bool, degree: int, kv_bytes: int) -> tuple[Part, ...]:
    """Of a model of this shape: fine-tunes share it with what they came from."""
    model = Model("", "", tuple(Unit("", "", size) for size in sizes), tied, 0, rows_first)
    return tuple(
        Part(a, b, units := stage_units(model, a, b), tuple(runs_of(units)), later_units(model, a, b),
             stage_bytes(model, a, b), -(-kv_bytes * (b - a) // model.layers))
        for a, b in pairwise(split_layers(model, degree))
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _with_workspaces(
    parts: tuple[Part, ...], widths: Widths, kv_tokens: int, kv_bytes_per_token: int
) -> tuple[Part, ...]:
    layers, degree = parts[-1].end_layer, len(parts)
    layer_kv_bytes = -(-kv_bytes_per_token // layers)
    shapes = [
        StageShape(part.end_layer - part.first_layer, len(part.units), rank, degree) for rank, part in enumerate(parts)
    ]
    return tuple(
        replace(part, workspace=workspace_of(widths, shape, kv_tokens, layer_kv_bytes))
        for part, shape in zip(parts, shapes, strict=True)
    )


def runs_of(units: Sequence[int]) -> list[tuple[int, int]]:
    """Indices as ranges [first, end) that follow one another in them."""
    found: list[tuple[int, int]] = []
    for index in units:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def stage_units(model: Model, first_layer: int, end_layer: int) -> tuple[int, ...]:
    """Indices into `model.units` of what the stage of layers [first_layer, end_layer) needs, in order of use.

    The first stage has the embedding, the last the head; with tied embeddings the last also has the embedding,
    whose matrix it multiplies with at the very end. Of an embedding that can be read by rows the first stage needs a
    few at once and the whole at last.
    """
    first, last = first_layer == 0, end_layer == model.layers
    units = list(range(first_layer + 1, end_layer + 1))
    if last:
        units.append(model.layers + 1)
    if first and not model.rows_first:
        units.insert(0, 0)
    elif first or (last and model.tied_embeddings):
        units.append(0)
    return tuple(units)


def stage_bytes(model: Model, first_layer: int, end_layer: int) -> int:
    """Bytes of weights that the stage of layers [first_layer, end_layer) holds."""
    return sum(model.units[index].size_bytes for index in stage_units(model, first_layer, end_layer))


def later_units(model: Model, first_layer: int, end_layer: int) -> frozenset[int]:
    """Indices of the units that the first token does not wait for at the stage of layers [first_layer, end_layer)."""
    output_matrix = model.tied_embeddings and end_layer == model.layers
    return frozenset({0}) if model.rows_first and first_layer == 0 and not output_matrix else frozenset()


def as_met(
    model: Model, part: Part, sizes: Sequence[int], embedding: int | None, there_s: Sequence[float], rows_s: float
) -> list[tuple[float, int]]:
    """(when it is there, bytes that computing reads) of the part's units, which have those `sizes`, as the first token meets
    them; `embedding` is the place of the model's first among them.

    The embedding is looked up by rows, which may come before the rest of it; at the end it may be the output matrix.
    """
    found = list(zip(there_s, sizes, strict=True))
    whole_s = 0.0
    if embedding is not None:
        whole_s, _ = found.pop(embedding)
    if part.first_layer == 0:
        found.insert(0, (min(rows_s, whole_s) if model.rows_first else whole_s, 0))
    if part.end_layer == model.layers and model.tied_embeddings:
        found.append((whole_s, model.sizes[0]))
    return found


def critical_bytes(model: Model, first_layer: int, end_layer: int) -> int:
    """Bytes of weights that the first token waits for at the stage of layers [first_layer, end_layer).

    An embedding that can be read by rows does not count at the first stage, unless that has the output matrix in it too.
    """
    later = later_units(model, first_layer, end_layer)
    return stage_bytes(model, first_layer, end_layer) - sum(model.units[index].size_bytes for index in later)


def _is_lighter(heaviest: Sequence[float], weight: Callable[[int, int], int], end: int, first: int) -> bool:
    """Whether the stage of layers [first, end) is no heavier than the heaviest before it."""
    return weight(first, end) <= heaviest[first]


def split_layers(model: Model, degree: int) -> tuple[int, ...]:
    """Bounds b with stage i = layers [b[i], b[i+1]), every stage at least one layer, the heaviest stage the lightest
    possible: what bounds a pipeline's cold start is the stage with the most `critical_bytes` to fetch.

    Raises ValueError unless 1 <= degree <= layers. Linear partition by dynamic programming, O(degree x layers x log layers).
    """
    if not 1 <= degree <= model.layers:
        raise ValueError(f"degree {degree} does not fit a model of {model.layers} layers")
    layers = model.layers
    prefix = [0]
    for unit in model.units[1 : layers + 1]:
        prefix.append(prefix[-1] + unit.size_bytes)
    embed, head = model.units[0].size_bytes, model.units[-1].size_bytes

    def weight(first: int, end: int) -> int:  # critical_bytes, in constant time
        at_entry = first == 0 and not model.rows_first
        at_exit = end == layers and model.tied_embeddings
        extra = (embed if at_entry or at_exit else 0) + (head if end == layers else 0)
        return prefix[end] - prefix[first] + extra

    heaviest: list[float] = [float("inf")] + [weight(0, end) for end in range(1, layers + 1)]
    cuts: list[list[int]] = []
    for stages in range(2, degree + 1):
        best, cut = [float("inf")] * (layers + 1), [0] * (layers + 1)
        for end in range(stages, layers + 1):
            # the later the last stage begins, the lighter it is and the heavier are those before it
            lighter = partial(_is_lighter, heaviest, weight, end)
            first = bisect_left(range(end), True, stages - 1, end - 1, key=lighter)
            before = max(first - 1, stages - 1)
            best[end], cut[end] = min((max(heaviest[at], weight(at, end)), at) for at in (before, first))
        heaviest = best
        cuts.append(cut)
    bounds = [layers]
    for cut in reversed(cuts):
        bounds.append(cut[bounds[-1]])
    return (0, *reversed(bounds)) if degree > 1 else (0, layers)
