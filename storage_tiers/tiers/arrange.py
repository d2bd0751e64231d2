"""Where a unit's tensors lie on a device: matrices that are multiplied with the same input in a row, for one product."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from storage_tiers.checkpoint import TensorEntry, UnitLayout, align

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules of one parent whose weights, and whose biases, lie in a row in this order."""
_KINDS = ("weight", "bias")


@dataclass(frozen=True)
class Move:
    """Bytes of a unit and their place on the device, both counted from the unit's start."""

    source_offset_bytes: int
    target_offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class Arrangement:
    """`moves` bring every tensor of a unit to its place, in the order in which they read it. `offset_bytes` is the place of
    each by its name, `size_bytes` what they take in all: never more than the unit."""

    moves: tuple[Move, ...]
    offset_bytes: Mapping[str, int]
    size_bytes: int


def arrange(layout: UnitLayout) -> Arrangement:
    """The tensors in the unit's order, but that those of TOGETHER follow the first of them with no gap.

    What does not begin in such a row begins at a multiple of 4 KiB. Only a row that is all there, of one type and with
    equal lines, is put together.
    """
    offsets: dict[str, int] = {}
    moves: list[Move] = []
    at = 0
    for row in _rows(layout.tensors):
        at = align(at)
        for tensor in row:
            offsets[tensor.name] = at
            moves.append(Move(tensor.offset_bytes, at, tensor.size_bytes))
            at += tensor.size_bytes
    if align(at) > align(layout.payload_bytes):  # tensors that share bytes do so where they are, and nowhere else
        offsets = {tensor.name: tensor.offset_bytes for tensor in layout.tensors}
        return Arrangement((Move(0, 0, layout.payload_bytes),), offsets, layout.payload_bytes)
    joined = sorted(_joined(moves), key=lambda move: move.source_offset_bytes)
    return Arrangement(tuple(joined), offsets, at)


def _rows(tensors: Sequence[TensorEntry]) -> Iterator[Sequence[TensorEntry]]:
    """The tensors in order, each alone or, where the first of a row is, the row."""
    by_name = {tensor.name: tensor for tensor in tensors}
    placed: set[str] = set()
    for tensor in tensors:
        if tensor.name not in placed:
            row = _row_of(tensor, by_name)
            placed.update(member.name for member in row)
            yield row


def _row_of(tensor: TensorEntry, by_name: Mapping[str, TensorEntry]) -> Sequence[TensorEntry]:
    parent, _, own = tensor.name.rpartition(".")
    parent, _, module = parent.rpartition(".")
    if own in _KINDS:
        for modules in TOGETHER:
            row = [by_name.get(f"{parent}.{other}.{own}") for other in modules] if module in modules else []
            found = [member for member in row if member is not None]
            if row and len(found) == len(row) and len({(member.dtype, member.shape[1:]) for member in found}) == 1:
                return found
    return [tensor]


def _joined(moves: Sequence[Move]) -> list[Move]:
    """Moves in the order of their targets, those as one that go equally far. The padding between them goes along."""
    found: list[Move] = []
    for move in moves:
        if not move.size_bytes:
            continue
        shift = move.target_offset_bytes - move.source_offset_bytes
        last = found[-1] if found else move
        if found and last.target_offset_bytes - last.source_offset_bytes == shift:
            end = move.target_offset_bytes + move.size_bytes
            found[-1] = Move(last.source_offset_bytes, last.target_offset_bytes, end - last.target_offset_bytes)
        else:
            found.append(move)
    return found
