"""The KV cache of a stage on a GPU: one arena of exactly the tokens that were reserved, cut into pages.

Rooms of any sizes then leave no gaps, a step's rows may be of any lengths, what a kernel reads of a request follows from
tensors alone (so that a captured step serves every length), and a request's KV is exported by its list of pages.

A request's room is a list of pages, a row of a table on the device. Row 0 and page 0 belong to nobody: a step that is
filled up to the size it was captured with writes there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cluster.errors import NoKv
from cluster.stage.attending.slabs import alike
from cluster.stage.steps import Segment

PAGE_TOKENS = 32
"""The rooms of schedules.requests.room_tokens are whole pages, but for one that is all there is."""
NOBODY = 0
_FIRST_ROWS = 1024
_TABLE_BYTES = 16 << 20
"""Of the table at first, with fewer rows then; it grows with the requests that run."""


def pages_of(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_TOKENS)


class Arena:
    """Keys and values of all layers, each (pages * PAGE_TOKENS, KV heads, head dim), made at a layer's first use."""

    def __init__(self, layers: int, pages: int) -> None:
        self.tokens = pages * PAGE_TOKENS
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    @property
    def size_bytes(self) -> int:
        """Memory taken so far."""
        return sum(tensor.nbytes for layer in self._layers if layer is not None for tensor in layer)

    def tensors(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values, of the kind of `key` and `value` (1, KV heads, T, dim)."""
        found = self._layers[layer]
        if found is None:
            found = self._layers[layer] = (self._zeros(key), self._zeros(value))
        return found

    def made(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The same, None before its first use."""
        return self._layers[layer]

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.tokens, like.shape[1], like.shape[-1], dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Rows:
    """Requests with one new token each. `take`: their tokens in the step, None if they are all of it, in order.

    `rows` (B,) of `table` (rows, pages), int64 and int32; `lengths` (B,) int32: tokens that each has with the new one,
    none more than `reach`.
    """

    take: torch.Tensor | None
    rows: torch.Tensor
    lengths: torch.Tensor
    table: torch.Tensor
    reach: int


@dataclass(frozen=True)
class Piece:
    """Tokens [start, start + tokens) of a step: a piece of one request's prompt, its first token at `position`.

    `at` (position + tokens,): where the request's tokens stand in the arena; None at the prompt's beginning.
    """

    start: int
    tokens: int
    position: int
    at: torch.Tensor | None


@dataclass(frozen=True)
class Prompts:
    """All pieces of a step in a row, for one call. `take`: their tokens in the step, None if they are all of it, in order.

    `at`: where the tokens that each attends to stand in the arena, one piece after the other; None if those are the step's
    own. `starts_q` and `starts_k` (pieces + 1,) int32: where each piece's tokens, and those it attends to, begin.
    """

    take: torch.Tensor | None
    at: torch.Tensor | None
    starts_q: torch.Tensor
    starts_k: torch.Tensor
    longest_q: int
    longest_k: int


@dataclass(frozen=True)
class PagedPlan:
    """Where the tokens of one step go (`to`, flat positions of the arena) and what they attend to; for every layer.

    `positions` (1, T) and `last` (N,), the tokens whose next is wanted, are int64 as all indices.
    """

    arena: Arena
    segments: Sequence[Segment]
    positions: torch.Tensor
    last: torch.Tensor
    to: torch.Tensor
    decode: Rows | None
    pieces: Sequence[Piece]
    prompts: Prompts | None = None
    masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.positions.shape[1]


@dataclass(frozen=True)
class _Room:
    row: int
    pages: np.ndarray

    def at(self, first: int, end: int) -> np.ndarray:
        """Flat positions of the request's tokens [first, end)."""
        tokens = np.arange(first, end)
        return self.pages[tokens // PAGE_TOKENS] * PAGE_TOKENS + tokens % PAGE_TOKENS


class PagedCache:
    """The rooms of a stage with `layers` layers, `kv_tokens` in all at most; who gets one is decided elsewhere."""

    def __init__(self, layers: int, kv_tokens: int, device: torch.device) -> None:
        self._device = device
        pages = pages_of(kv_tokens) + 1
        self.arena = Arena(layers, pages)
        self._free_pages = list(range(pages - 1, NOBODY, -1))
        self._rooms: dict[int, _Room] = {}
        self._free_rows: list[int] = []
        self.table = torch.zeros(0, pages_of(kv_tokens), dtype=torch.int32, device=device)
        self._grow(max(2, min(_FIRST_ROWS, pages, _TABLE_BYTES // (4 * pages))))

    @property
    def slots(self) -> int:
        """Requests that have a room."""
        return len(self._rooms)

    def place(self, slot: int, room: int) -> tuple[int, int]:
        """Give the request a room unless it has one. A sort key, as the other caches give it."""
        found = self._rooms.get(slot)
        if found is None:
            if not self._free_rows:
                self._grow(2 * len(self.table))
            count = pages_of(room)
            pages = np.array([self._free_pages.pop() for _ in range(count)], dtype=np.int64)
            found = self._rooms[slot] = _Room(self._free_rows.pop(), pages)
            self.table[found.row, :count] = torch.from_numpy(pages.astype(np.int32)).to(self._device)
        return found.row, 0

    def row(self, slot: int) -> int:
        """The request's row of the table."""
        return self._rooms[slot].row

    def forget(self, slot: int) -> None:
        """Free the request's room. What was in it stays there until it is written over: nothing reads beyond a length."""
        room = self._rooms.pop(slot, None)
        if room is None:
            return
        self._free_pages += reversed(room.pages.tolist())
        self._free_rows.append(room.row)

    def holds(self, slot: int) -> _Room | None:
        """The request's place, the same as long as it has one. Thread-safe, as `read` is."""
        return self._rooms.get(slot)

    def read(self, place: _Room, layer: int, values: bool, first: int, end: int) -> torch.Tensor:
        """A copy of the keys or values of tokens [first, end), (tokens, KV heads, head dim), in the caller's stream. NoKv if
        the layer has none. They are the request's if it holds the place when they have been copied."""
        tensors = self.arena.made(layer)
        if tensors is None or end > len(place.pages) * PAGE_TOKENS:
            raise NoKv(f"layer {layer} of the stage has no KV cache of {end} tokens")
        at = torch.from_numpy(place.at(first, end)).to(self._device)
        return tensors[values][at]

    def suits(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether these are of the layer's kind, as far as that is known."""
        had = self.arena.made(layer)
        return had is None or alike(had, (keys, values))

    def fill(self, slot: int, room: int, first: int, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Have each layer's keys and values (tokens, KV heads, head dim) as the request's, whose first is token `first`."""
        self.place(slot, room)
        at = torch.from_numpy(self._rooms[slot].at(first, first + len(layers[0][0]))).to(self._device)
        for layer, (keys, values) in enumerate(layers):
            keys, values = (t.to(self._device, non_blocking=True) for t in (keys, values))
            had = self.arena.tensors(layer, keys.transpose(0, 1)[None], values.transpose(0, 1)[None])
            had[0].index_copy_(0, at, keys)
            had[1].index_copy_(0, at, values)

    def plan(self, segments: Sequence[Segment]) -> PagedPlan:
        """Prepare a step. Requests that come for the first time get their rooms."""
        starts, at = [], 0
        for segment in segments:
            self.place(segment.slot, segment.room)
            starts.append(at)
            at += segment.tokens
        decodes = [i for i, s in enumerate(segments) if s.tokens == 1 and s.position]
        asked = [i for i, s in enumerate(segments) if s.tokens > 1 or not s.position]
        ends = [s.position + s.tokens for s in segments]
        fresh = not any(segments[i].position for i in asked)
        own = [self._rooms[s.slot].at(0 if i in asked and not fresh else s.position, end)
               for i, (s, end) in enumerate(zip(segments, ends, strict=True))]  # fmt: skip
        positions, to, last, take, rows, lengths, prompt_take, history, starts_q, starts_k = self._carry([
            _joined([np.arange(s.position, end) for s, end in zip(segments, ends, strict=True)]),
            _joined([places[-s.tokens :] for s, places in zip(segments, own, strict=True)]),
            np.array([start + s.tokens - 1 for start, s in zip(starts, segments, strict=True) if s.wanted], np.int64),
            np.array([starts[i] for i in decodes], np.int64),
            np.array([self._rooms[segments[i].slot].row for i in decodes], np.int64),
            np.array([ends[i] for i in decodes], np.int64),
            _joined([np.arange(starts[i], starts[i] + segments[i].tokens) for i in asked]),
            _joined([] if fresh else [own[i] for i in asked]),
            np.cumsum([0] + [segments[i].tokens for i in asked]),
            np.cumsum([0] + [segments[i].tokens if fresh else ends[i] for i in asked]),
        ])  # fmt: skip
        decode = prompts = None
        if decodes:
            reach = reach_of(max(ends[i] for i in decodes), self.table.shape[1])
            decode = Rows(take if asked else None, rows, lengths.int(), self.table, reach)
        if asked:
            prompts = Prompts(
                prompt_take if decodes else None, None if fresh else history, starts_q.int(), starts_k.int(),
                max(segments[i].tokens for i in asked), max(segments[i].tokens if fresh else ends[i] for i in asked),
            )  # fmt: skip
        pieces = []
        for i, at in zip(asked, np.cumsum([0] + [ends[i] for i in asked]), strict=False):
            s = segments[i]
            pieces.append(Piece(starts[i], s.tokens, s.position, history[at : at + ends[i]] if s.position else None))
        return PagedPlan(self.arena, segments, positions[None], last, to, decode, pieces, prompts)

    def _carry(self, parts: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """All of a step's numbers to the device in one copy."""
        joined = torch.from_numpy(np.concatenate(parts)).to(self._device)
        return list(joined.split([len(part) for part in parts]))

    def _grow(self, rows: int) -> None:
        old = self.table
        self.table = torch.zeros(rows, old.shape[1], dtype=torch.int32, device=self._device)
        self.table[: len(old)] = old
        self._free_rows += range(rows - 1, max(len(old) - 1, NOBODY), -1)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def reach_of(longest: int, pages: int) -> int:
    """Tokens up to which rows are looked at where that must be said beforehand: a power of two, in whole pages."""
    reach = PAGE_TOKENS
    while reach < longest:
        reach *= 2
    return min(reach, pages * PAGE_TOKENS)
