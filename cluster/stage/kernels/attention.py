"""Decode attention over pages: one new token of each request over all that its request has, whatever the lengths.

A request's length and pages are read by the kernel itself, so a captured step serves every length. The tokens of a request
are parted among several programs, whose results are joined by a second kernel (flash decoding).
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Tile:
    """What one program reads at a time: `tokens`, with `warps` warps, of which `stages` are under way; and among how many
    `programs` the requests' tokens are parted at most, which is what keeps a large GPU busy."""

    tokens: int
    warps: int
    stages: int
    programs: int


TILE = Tile(32, 4, 3, 528)
_MOST_PARTS = 32
_LEAST_ROWS = 16
"""Rows that a matrix product needs."""
_PER_STEP = (
    "parts", "window", "scale", "softcap", "table_stride", "q_b", "q_h", "key_s", "key_h", "value_s", "value_h"
)  # fmt: skip
_TENSORS_PER_STEP = ("query", "rows", "lengths", "to", "key", "value")
"""A kernel is compiled anew for a number that is 1 or a multiple of 16, and for a tensor that lies so: not for these."""


@triton.jit(do_not_specialize=_PER_STEP, do_not_specialize_on_alignment=_TENSORS_PER_STEP)
def _part(
    query, keys, values, rows, lengths, table, result, part_out, part_max, part_sum,
    scale, softcap, window, parts, table_stride, q_b, q_h, key_t, key_h, value_t, value_h,
    PAGE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr,
    VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(1)
    length = tl.load(lengths + b)
    row = tl.load(rows + b)
    begin = 0
    if WINDOWED:
        begin = tl.maximum(length - window, 0)
    each = tl.cdiv(tl.cdiv(length - begin, parts), BLOCK) * BLOCK
    first = begin + part * each
    end = tl.minimum(first + each, length)
    in_group = tl.arange(0, ROWS)
    dims, value_dims, steps = tl.arange(0, DIM_BLOCK), tl.arange(0, VALUE_BLOCK), tl.arange(0, BLOCK)
    q = tl.load(
        query + b * q_b + (head * GROUP + in_group)[:, None] * q_h + dims[None, :],
        mask=(in_group[:, None] < GROUP) & (dims[None, :] < DIM), other=0.0,
    )  # fmt: skip
    greatest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, VALUE_BLOCK], tl.float32)
    for at in range(first, end, BLOCK):
        tokens = at + steps
        here = tokens < end
        page = tl.load(table + row * table_stride + tokens // PAGE, mask=here, other=0).to(tl.int64)
        places = page * PAGE + tokens % PAGE
        k = tl.load(
            keys + places[None, :] * key_t + head * key_h + dims[:, None],
            mask=here[None, :] & (dims[:, None] < DIM), other=0.0,
        )  # fmt: skip
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        if CAPPED:
            scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)
        scores = tl.where(here[None, :], scores, float("-inf"))
        now = tl.maximum(greatest, tl.max(scores, 1))
        weights = tl.exp(scores - now[:, None])
        shrink = tl.exp(greatest - now)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(
            values + places[:, None] * value_t + head * value_h + value_dims[None, :],
            mask=here[:, None] & (value_dims[None, :] < VALUE_DIM), other=0.0,
        )  # fmt: skip
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        greatest = now
    told = in_group < GROUP
    if WHOLE:
        tl.store(
            result + ((b * heads + head) * GROUP + in_group)[:, None] * VALUE_DIM + value_dims[None, :],
            (out / total[:, None]).to(result.dtype.element_ty),
            mask=told[:, None] & (value_dims[None, :] < VALUE_DIM),
        )  # fmt: skip
        return
    place = ((b * heads + head) * parts + part) * GROUP + in_group
    tl.store(part_max + place, greatest, mask=told)
    tl.store(part_sum + place, total, mask=told)
    tl.store(
        part_out + place[:, None] * VALUE_DIM + value_dims[None, :], out,
        mask=told[:, None] & (value_dims[None, :] < VALUE_DIM),
    )  # fmt: skip


@triton.jit(do_not_specialize=_PER_STEP)
def _join(
    part_out, part_max, part_sum, result, parts,
    GROUP: tl.constexpr, MOST_PARTS: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_BLOCK: tl.constexpr,
):  # fmt: skip
    b, head = tl.program_id(0), tl.program_id(1)
    heads = tl.num_programs(1)
    kv_head, member = head // GROUP, head % GROUP
    part, dims = tl.arange(0, MOST_PARTS), tl.arange(0, VALUE_BLOCK)
    made = part < parts
    place = ((b * (heads // GROUP) + kv_head) * parts + part) * GROUP + member
    greatest = tl.load(part_max + place, mask=made, other=float("-inf"))
    weights = tl.exp(greatest - tl.max(greatest, 0))
    total = tl.sum(weights * tl.load(part_sum + place, mask=made, other=0.0), 0)
    outs = tl.load(
        part_out + place[:, None] * VALUE_DIM + dims[None, :],
        mask=made[:, None] & (dims[None, :] < VALUE_DIM), other=0.0,
    )  # fmt: skip
    joined = tl.sum(outs * weights[:, None], 0) / total
    tl.store(result + (b * heads + head) * VALUE_DIM + dims, joined.to(result.dtype.element_ty), mask=dims < VALUE_DIM)


@triton.jit(do_not_specialize=_PER_STEP, do_not_specialize_on_alignment=_TENSORS_PER_STEP)
def _write(
    key, value, keys, values, to, key_s, key_h, value_s, value_h, key_t, value_t,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, DIM_BLOCK: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0), tl.program_id(1)
    dims = tl.arange(0, DIM_BLOCK)
    place = tl.load(to + token)
    k = tl.load(key + token * key_s + head * key_h + dims, mask=dims < KEY_DIM)
    tl.store(keys + place * key_t + head * KEY_DIM + dims, k, mask=dims < KEY_DIM)
    v = tl.load(value + token * value_s + head * value_h + dims, mask=dims < VALUE_DIM)
    tl.store(values + place * value_t + head * VALUE_DIM + dims, v, mask=dims < VALUE_DIM)


def parts_of(rows: int, kv_heads: int, programs: int = TILE.programs) -> int:
    """Programs among which one request's tokens are parted: a power of two."""
    parts = 1
    while parts < _MOST_PARTS and 2 * parts * rows * kv_heads <= programs:
        parts *= 2
    return parts


def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: torch.Tensor,
    lengths: torch.Tensor,
    table: torch.Tensor,
    page_tokens: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    tile: Tile = TILE,
) -> torch.Tensor:
    """Queries (B, heads, dim) over keys and values (tokens, KV heads, dim) by pages: (B, heads, value dim).

    `rows` (B,) of `table` (rows, pages) name each request's pages, `lengths` (B,) its tokens, at least one.
    """
    batch, heads, dim = query.shape
    kv_heads, value_dim = values.shape[1:]
    group, parts = heads // kv_heads, parts_of(batch, kv_heads, tile.programs)
    if query.stride(2) != 1:
        query = query.contiguous()
    result = torch.empty(batch, heads, value_dim, dtype=query.dtype, device=query.device)
    if parts == 1:
        part_out = part_max = part_sum = result
    else:
        made = torch.empty(batch, kv_heads, parts, group, value_dim + 2, dtype=torch.float32, device=query.device)
        part_out, part_max, part_sum = _apart(made.view(-1), batch * heads * parts, value_dim)
    value_block = triton.next_power_of_2(value_dim)
    _part[(batch, kv_heads, parts)](
        query, keys, values, rows, lengths, table, result, part_out, part_max, part_sum,
        scale, softcap or 1.0, window or 0, parts, table.stride(0), query.stride(0), query.stride(1),
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        PAGE=page_tokens, GROUP=group, ROWS=max(_LEAST_ROWS, triton.next_power_of_2(group)),
        DIM=dim, DIM_BLOCK=max(16, triton.next_power_of_2(dim)), VALUE_DIM=value_dim, VALUE_BLOCK=max(16, value_block),
        BLOCK=tile.tokens, CAPPED=softcap is not None, WINDOWED=window is not None, WHOLE=parts == 1,
        PRECISION="ieee" if query.dtype is torch.float32 else "tf32", num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if parts > 1:
        _join[(batch, heads)](
            part_out, part_max, part_sum, result, parts,
            GROUP=group, MOST_PARTS=_MOST_PARTS, VALUE_DIM=value_dim, VALUE_BLOCK=value_block,
        )  # fmt: skip
    return result


def _apart(made: torch.Tensor, places: int, value_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one piece of memory: (places * value dim,), and twice (places,)."""
    outs = places * value_dim
    return made[:outs], made[outs : outs + places], made[outs + places :]


def write(key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, to: torch.Tensor) -> None:
    """Keys and values (T, KV heads, dim) of a step's tokens to the flat positions `to` (T,) of the arena."""
    key, value = (t if t.stride(2) == 1 else t.contiguous() for t in (key, value))
    dim_block = triton.next_power_of_2(max(key.shape[2], value.shape[2]))
    _write[key.shape[:2]](
        key, value, keys, values, to, key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        keys.stride(0), values.stride(0), KEY_DIM=key.shape[2], VALUE_DIM=value.shape[2], DIM_BLOCK=dim_block,
    )  # fmt: skip


def prepare(heads: int, kv_heads: int, dim: int, value_dim: int, dtype: torch.dtype, device: torch.device,
            window: int | None = None, softcap: float | None = None) -> None:  # fmt: skip
    """Compile the kernels for such layers, by a request of one token."""
    keys = torch.zeros(TILE.tokens, kv_heads, dim, dtype=dtype, device=device)
    values = torch.zeros(TILE.tokens, kv_heads, value_dim, dtype=dtype, device=device)
    rows = torch.zeros(1, dtype=torch.int64, device=device)
    table = torch.zeros(1, 1, dtype=torch.int32, device=device)
    write(keys[:1], values[:1], keys, values, rows)
    query, lengths = keys.new_zeros(1, heads, dim), torch.ones(1, dtype=torch.int32, device=device)
    for parts in (4, 1):  # into how many is compiled into neither kernel
        tile = replace(TILE, programs=parts * kv_heads)
        decode(query, keys, values, rows, lengths, table, TILE.tokens // 2, 1.0, window, softcap, tile)
