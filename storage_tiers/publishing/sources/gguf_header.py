"""The table of contents of a GGUF file, walked through once before gguf's own reader is let at it: that one reads as many
entries, and strings as long, as the file claims.
"""

import math
import mmap
import struct
from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_FIELDS, MOST_TENSORS, MOST_ELEMENTS = 1 << 14, 1 << 16, 1 << 24
MOST_RANK = 4
_FIELD_BYTES, _TENSOR_BYTES = 13, 24
"""The shortest that an entry of either kind can be."""
_NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _UINT32 = 8, 9, 4


def check_header(path: Path) -> None:
    """ValueError if the file is not GGUF, or claims more than it holds; OSError if it cannot be read."""
    size_bytes = path.stat().st_size
    if size_bytes < 24:
        raise ValueError(f"it has {size_bytes} bytes only")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Walk(data).check()


class _Walk:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._elements = data, 0, 0

    def check(self) -> None:
        from gguf import GGML_QUANT_SIZES

        if self._take(4) != MAGIC or self._u32() not in VERSIONS:
            raise ValueError(f"it is no little-endian GGUF file of version {' or '.join(map(str, VERSIONS))}")
        tensors, fields = self._u64(), self._u64()
        left = len(self._data) - self._at
        if tensors > min(MOST_TENSORS, left // _TENSOR_BYTES) or fields > min(MOST_FIELDS, left // _FIELD_BYTES):
            raise ValueError(f"it claims {tensors:,} tensors and {fields:,} fields in {len(self._data):,} bytes")
        alignment = 32
        for _ in range(fields):
            name = self._string()
            kind, start = self._u32(), self._at
            self._skip_value(kind)
            if name == b"general.alignment":
                alignment = struct.unpack_from("<I", self._data, start)[0] if kind == _UINT32 else 0
        if not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise ValueError(f"it aligns tensors to {alignment} bytes")
        sizes = {int(kind): shape for kind, shape in GGML_QUANT_SIZES.items()}
        ends = [offset + size for offset, size in (self._tensor(sizes) for _ in range(tensors))]
        start = -(-self._at // alignment) * alignment
        if ends and start + max(ends) > len(self._data):
            raise ValueError(f"its tensors end at {start + max(ends):,} bytes, it has {len(self._data):,}")

    def _tensor(self, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Offset and length in bytes of the next tensor."""
        name, rank = self._string(), self._u32()
        if not 1 <= rank <= MOST_RANK:
            raise ValueError(f"tensor {name[:80]!r} has {rank} dimensions")
        elements = math.prod(self._u64() for _ in range(rank))
        kind, offset = self._u32(), self._u64()
        if kind not in sizes:
            raise ValueError(f"tensor {name[:80]!r} is of a type that is not known ({kind})")
        block, block_bytes = sizes[kind]
        return offset, -(-elements // block) * block_bytes

    def _skip_value(self, kind: int) -> None:
        if kind == _ARRAY:
            element, count = self._u32(), self._u64()
            self._elements += count
            if self._elements > MOST_ELEMENTS:
                raise ValueError(f"it claims lists of {self._elements:,} values")
            if element == _STRING:
                for _ in range(count):
                    self._skip(self._u64())
            else:
                self._skip(count * self._number_bytes(element))
        elif kind == _STRING:
            self._skip(self._u64())
        else:
            self._skip(self._number_bytes(kind))

    def _number_bytes(self, kind: int) -> int:
        if kind not in _NUMBER_BYTES:
            raise ValueError(f"it has a value of a type that is not known ({kind})")
        return _NUMBER_BYTES[kind]

    def _string(self) -> bytes:
        return self._take(self._u64())

    def _u32(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def _u64(self) -> int:
        return int.from_bytes(self._take(8), "little")

    def _take(self, size_bytes: int) -> bytes:
        start = self._at
        self._skip(size_bytes)
        return self._data[start : self._at]

    def _skip(self, size_bytes: int) -> None:
        if size_bytes > len(self._data) - self._at:
            raise ValueError("it ends within its table of contents")
        self._at += size_bytes
