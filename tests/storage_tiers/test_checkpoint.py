"""The layout: what is computed is what is parsed, and damage is noticed."""

import json
import math
import random
import struct
from dataclasses import replace

import crc32c
from hypothesis import given
from hypothesis import strategies as st

from storage_tiers.checkpoint import (
    ALIGN_BYTES,
    CHUNK_TARGET_BYTES,
    DTYPE_BYTES,
    MOST_BLOCKS,
    SMALLEST_BLOCK_BYTES,
    Blocks,
    TensorSpec,
    UnitIndex,
    array_metadata,
    block_bytes_of,
    lay_out,
    model_digest,
    shard_index,
    unit_digest,
)
from storage_tiers.checksums import Checksums
from storage_tiers.schema import parse_array

_SPECS = st.lists(
    st.builds(
        TensorSpec,
        name=st.text("abcxyz_019.-", min_size=1, max_size=20).map(lambda name: f"t{name}"),
        dtype=st.sampled_from(sorted(DTYPE_BYTES)),
        shape=st.lists(st.integers(0, 5000), max_size=3).map(tuple),
    ),
    max_size=6,
)


@given(_SPECS)
def test_tensors_lie_aligned_in_order_and_apart(specs: list[TensorSpec]) -> None:
    layout = lay_out(specs)
    end = 0
    for spec, entry in zip(specs, layout.tensors, strict=True):
        assert entry.offset_bytes % ALIGN_BYTES == 0
        assert entry.offset_bytes >= end
        assert entry.size_bytes == math.prod(spec.shape) * DTYPE_BYTES[spec.dtype]
        end = entry.offset_bytes + entry.size_bytes
    assert end <= layout.payload_bytes <= layout.stored_bytes


@given(_SPECS)
def test_chunks_are_aligned_near_their_target_and_waste_little(specs: list[TensorSpec]) -> None:
    layout = lay_out(specs)
    assert layout.chunk_bytes % ALIGN_BYTES == 0
    assert layout.chunk_bytes <= CHUNK_TARGET_BYTES
    assert layout.stored_bytes - layout.payload_bytes <= ALIGN_BYTES * layout.chunks
    assert layout.chunks == 1 or layout.chunk_bytes > CHUNK_TARGET_BYTES // 4


@given(_SPECS)
def test_a_unit_survives_its_metadata(specs: list[TensorSpec]) -> None:
    unit = _unit("layer.0000", specs)
    assert parse_array(unit.path, json.loads(json.dumps(array_metadata(unit)))) == unit


@given(_SPECS)
def test_the_shard_index_says_that_chunks_lie_in_a_row(specs: list[TensorSpec]) -> None:
    layout = lay_out(specs)
    index = shard_index(layout)
    table, checksum = index[:-4], struct.unpack("<I", index[-4:])[0]
    assert list(struct.iter_unpack("<QQ", table)) == [
        (i * layout.chunk_bytes, layout.chunk_bytes) for i in range(layout.chunks)
    ]
    assert checksum == crc32c.crc32c(table)


def test_a_digest_depends_on_bytes_names_types_shapes_and_order() -> None:
    one, two = TensorSpec("a", "float32", (2, 3)), TensorSpec("b", "float32", (6,))
    variants = [
        [one, two], [two, one], [one], [TensorSpec("c", "float32", (2, 3)), two],
        [TensorSpec("a", "int32", (2, 3)), two], [TensorSpec("a", "float32", (3, 2)), two],
    ]  # fmt: skip
    digests = {unit_digest(lay_out(specs).tensors, "payload") for specs in variants}
    assert len(digests) == len(variants)
    assert unit_digest(lay_out([one]).tensors, "payload") != unit_digest(lay_out([one]).tensors, "other")


def test_a_model_digest_depends_on_configuration_type_and_units() -> None:
    unit = _unit("embed", [TensorSpec("a", "float32", (2,))])
    digests = {
        model_digest({"a": 1}, "float32", [unit], []),
        model_digest({"a": 2}, "float32", [unit], []),
        model_digest({"a": 1}, "float16", [unit], []),
        model_digest({"a": 1}, "float32", [], []),
        model_digest({"a": 1}, "float32", [unit], [unit]),
    }
    assert len(digests) == 5


@given(st.integers(0, 1 << 42))
def test_an_embedding_has_few_blocks_and_small_ones(size_bytes: int) -> None:
    layout = lay_out([TensorSpec("embedding", "uint8", (size_bytes,))])
    block_bytes = block_bytes_of("embed", layout)
    assert block_bytes is not None
    assert layout.stored_bytes <= block_bytes * MOST_BLOCKS
    assert block_bytes == SMALLEST_BLOCK_BYTES or layout.stored_bytes > block_bytes // 2 * MOST_BLOCKS
    assert block_bytes_of("head", layout) is None


@given(st.integers(0, 100_000), st.sampled_from([4096, 16384]), st.lists(st.integers(1, 30_000), max_size=8))
def test_blocks_are_summed_as_their_bytes_pass_in_pieces_of_any_size(
    size_bytes: int, block_bytes: int, cuts: list[int]
) -> None:
    layout = lay_out([TensorSpec("embedding", "uint8", (size_bytes,))])
    data = memoryview(random.Random(size_bytes).randbytes(layout.stored_bytes))
    sums, at = Checksums(layout, block_bytes), 0
    for cut in [*cuts, len(data)]:
        sums.update(data[at : at + cut])
        at += cut
    pieces = [data[at : at + block_bytes] for at in range(0, len(data), block_bytes)]
    assert sums.blocks is not None
    assert [sums.blocks.checksum(i) for i in range(len(pieces))] == [crc32c.crc32c(piece) for piece in pieces]
    assert len(sums.blocks.crc32c) == 4 * len(pieces)


def test_an_embedding_survives_its_metadata_with_its_blocks_and_without() -> None:
    bare = _unit("embed", [TensorSpec("embedding", "uint8", (40_000,))])
    unit = replace(bare, blocks=Blocks(16384, bytes(range(12))))
    for found in (bare, unit):
        assert parse_array(found.path, json.loads(json.dumps(array_metadata(found)))) == found
    assert "blocks" not in array_metadata(bare)["attributes"]


def _unit(name: str, specs: list[TensorSpec]) -> UnitIndex:
    layout = lay_out(specs)
    return UnitIndex(name, f"_1/{name}", unit_digest(layout.tensors, "0"), layout, tuple(range(layout.chunks)))
