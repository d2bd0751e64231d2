"""What a stage needs on a GPU beside its weights and the KV cache of its tokens: bytes that stand in its reservation.

Each term is what its name says, at the most that a stage does at once: a piece of a prompt, and MAX_ROWS requests in a step.
On a CPU nothing of this is reserved, for there a reservation is an account.
"""

from dataclasses import dataclass

from schedules.facts import Widths

PREFILL_TOKENS_ALONE, MAX_ROWS = 2048, 256
"""The most tokens of a prompt, and the most requests, in one step: as cluster.stage.steps has them for a GPU."""
PAGE_TOKENS = 32
"""KV cache is had in pages of so many tokens, and one more page takes what no request wants to keep."""
_LIVE_HIDDEN, _LIVE_ATTENTION, _LIVE_INNER, _NORMED_BYTES = 4, 3, 4, 8
"""Of a layer, while it computes: what goes through it and its sums, queries and keys before and after they are rotated, the
feed-forward's gate and its products; and for a norm two numbers of four bytes for each that goes through."""
SAMPLING_BYTES, PENALTIES_BYTES = 32, 64 << 20
"""For each logit of a step beside itself, while tokens are chosen; and what is known of requests with penalties."""
SCORES, _SCORE_BYTES = 1 << 26, 12
"""So many scores of attention stand in memory at once where it is not flash attention: themselves, capped, and as weights."""
_PRODUCTS_BYTES = 128 << 20
"""cuBLAS keeps 32 MiB for each stream that multiplies: for steps, for what captures them, for what comes beside them."""
_BLOCK_BYTES = 2 << 20
"""Memory of a GPU is had in blocks of so much: each unit, and keys and values of each layer, fill their last one in part."""
_SMALL_BYTES = 64 << 20
"""Positions, tables, masks of a row, and blocks of which only a part is in use."""
GRAPHS, GRAPH_ROWS, _GRAPH_LAYER_BYTES = 14, 883, 256 << 10
"""So many graphs of a step are kept, of so many requests together, none of which has its numbers in another's memory; the
driver has so much for the kernels that each has of a layer."""
_LINE_BYTES = 256 << 20
"""NCCL's buffers for a neighbour on a GPU of its own."""


@dataclass(frozen=True)
class StageShape:
    """What of a model a stage has: so many layers and units, and which stage of how many it is."""

    layers: int
    units: int
    rank: int
    degree: int

    @property
    def last(self) -> bool:
        return self.rank == self.degree - 1

    @property
    def neighbours(self) -> int:
        """With how many stages it exchanges hidden states."""
        return (self.rank > 0) + (not self.last)


@dataclass(frozen=True)
class Workspace:
    """Bytes by what they are for: what a layer has of a `prompt`'s piece while it computes; keys and values of one layer
    `gathered` out of their pages, once as they are and once as they are used; `scores` of attention and masks, where it is
    not flash attention; `logits` with what chooses from them; what `products` of matrices use; `blocks` that are not full;
    `scratch_pages` of KV cache; what `graphs` have of their own. The stage has all that of its own allocator.
    `graph_kernels`, which the driver keeps for graphs, and `lines`, which NCCL has, are outside of it."""

    prompt: int
    gathered: int
    scores: int
    logits: int
    products: int
    blocks: int
    scratch_pages: int
    graphs: int
    graph_kernels: int
    lines: int

    @property
    def inside_bytes(self) -> int:
        computing = self.prompt + self.gathered + self.scores + self.logits + self.products
        return computing + self.blocks + self.scratch_pages + self.graphs

    @property
    def outside_bytes(self) -> int:
        return self.graph_kernels + self.lines


NO_WORKSPACE = Workspace(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def workspace_of(widths: Widths, shape: StageShape, kv_tokens: int, layer_kv_bytes: int) -> Workspace:
    """What a stage needs whose requests have `kv_tokens` in all, of which a layer keeps `layer_kv_bytes` each."""
    out = widths.vocabulary if shape.last else widths.hidden
    choosing = MAX_ROWS * widths.vocabulary * (widths.number_bytes + SAMPLING_BYTES) + PENALTIES_BYTES
    return Workspace(
        prompt=layer_bytes(widths, PREFILL_TOKENS_ALONE),
        gathered=kv_tokens * (layer_kv_bytes + _used_bytes(widths, layer_kv_bytes)),
        scores=_SCORE_BYTES * SCORES + kv_tokens * PREFILL_TOKENS_ALONE if widths.plain_attention else 0,
        logits=choosing if shape.last else 0,
        products=_PRODUCTS_BYTES,
        blocks=_BLOCK_BYTES * (shape.units + 2 * shape.layers) + _SMALL_BYTES,
        scratch_pages=(pages(kv_tokens) * PAGE_TOKENS - kv_tokens) * layer_kv_bytes * shape.layers,
        graphs=GRAPH_ROWS * out * widths.number_bytes + layer_bytes(widths, GRAPH_ROWS),
        graph_kernels=GRAPHS * _GRAPH_LAYER_BYTES * shape.layers,
        lines=_LINE_BYTES * shape.neighbours,
    )


def layer_bytes(widths: Widths, tokens: int) -> int:
    """The most that a layer has at once of so many tokens, beside its weights and the KV cache."""
    numbers = _LIVE_HIDDEN * widths.hidden + max(_LIVE_ATTENTION * widths.attention, _LIVE_INNER * widths.inner)
    return tokens * (numbers * widths.number_bytes + _NORMED_BYTES * widths.hidden)


def _used_bytes(widths: Widths, layer_kv_bytes: int) -> int:
    """Keys and values of a token as a layer attends to them: where it is not flash attention, once for each query's head."""
    queries_bytes = widths.attention * widths.number_bytes - layer_kv_bytes
    return max(layer_kv_bytes, 2 * queries_bytes) if widths.plain_attention else layer_kv_bytes


def pages(kv_tokens: int) -> int:
    """Pages of KV cache that a stage has for so many tokens: whole ones, and one of scratch."""
    return -(-kv_tokens // PAGE_TOKENS) + 1
