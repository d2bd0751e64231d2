"""The KV cache of a stage: rooms for requests, in slabs whose rows can be attended to in one call.

A slab has rows of one room size. On a CPU memory of a row that nothing was written to is not taken from the system, so a
slab is made in microseconds; a GPU's is, so slabs are made no larger there than what is left of the tokens that the stage
has reserved. A slab is given back when its last row is free.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cluster.errors import NoKv
from cluster.stage.steps import Segment

SLAB_ROWS = 32


class Slab:
    """`rows` rooms of `room` tokens each. Keys and values of a layer: (rows, room, KV heads, head dim), made at first use."""

    def __init__(self, number: int, rows: int, room: int, layers: int) -> None:
        self.number, self.rows, self.room = number, rows, room
        self.used: list[int | None] = [None] * rows
        self.layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    def tensors(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values, each (rows * room, KV heads, head dim), of the kind of `key` and `value`."""
        found = self.layers[layer]
        if found is None:
            found = self.layers[layer] = (self._zeros(key), self._zeros(value))
        return found

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        shape = self.rows * self.room, like.shape[1], like.shape[-1]
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        # torch.zeros writes every page, which is most of a first step; the system's fresh pages are zero as they are
        pages = mmap.mmap(-1, math.prod(shape) * like.element_size(), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)


@dataclass(frozen=True)
class _Place:
    slab: Slab
    row: int
    order: tuple[int, int]


@dataclass(frozen=True)
class Write:
    """Tokens of a step (`take`, None for all) that go to the flat positions `to` of a slab."""

    slab: Slab
    take: torch.Tensor | None
    to: torch.Tensor


@dataclass(frozen=True)
class Decode:
    """Requests with one new token each, in rows [first_row, end_row) of one slab.

    `take`: their tokens in the step; `rows`: their rows within the range, None if they are all of it, in order;
    `lengths` (rows of the range,): tokens that each has with the new one, 1 for a row that takes no part.
    """

    slab: Slab
    first_row: int
    end_row: int
    take: torch.Tensor | None
    rows: torch.Tensor | None
    lengths: torch.Tensor
    longest: int
    even: bool


@dataclass(frozen=True)
class Prefill:
    """Tokens [start, start + tokens) of a step: a piece of one request's prompt, its first token at `position`."""

    slab: Slab
    row: int
    start: int
    tokens: int
    position: int


class StepPlan:
    """Where the tokens of one step go and what they attend to; the same for every layer."""

    def __init__(
        self, segments: Sequence[Segment], positions: torch.Tensor, last: torch.Tensor, writes: Sequence[Write],
        decodes: Sequence[Decode], prefills: Sequence[Prefill],
    ) -> None:  # fmt: skip
        self.segments, self.positions, self.last = segments, positions, last
        self.writes, self.decodes, self.prefills = writes, decodes, prefills
        self.masks: dict[tuple[int, int | None], torch.Tensor] = {}

    @property
    def tokens(self) -> int:
        return self.positions.shape[1]


class SlabCache:
    """The rooms of a stage with `layers` layers, `kv_tokens` in all at most; who gets one is decided elsewhere."""

    def __init__(self, layers: int, kv_tokens: int, device: torch.device) -> None:
        self._layers, self._kv_tokens, self._device = layers, kv_tokens, device
        self._slabs: dict[int, list[Slab]] = {}
        self._places: dict[int, _Place] = {}
        self._fill: dict[int, int] = {}
        self._made = 0

    @property
    def slots(self) -> int:
        """Requests that have a room."""
        return len(self._places)

    def place(self, slot: int, room: int) -> tuple[int, int]:
        """Give the request a room unless it has one. A sort key: neighbours by it can be attended to together."""
        if slot not in self._places:
            slabs = self._slabs.setdefault(room, [])
            slab = next((slab for slab in slabs if None in slab.used), None)
            if slab is None:
                self._made += 1
                slab = Slab(self._made, max(1, min(SLAB_ROWS, self._unmade_tokens() // room)), room, self._layers)
                slabs.append(slab)
            row = slab.used.index(None)
            slab.used[row] = slot
            self._places[slot] = _Place(slab, row, (slab.number, row))
            self._fill[slot] = 0
        return self._places[slot].order

    def _unmade_tokens(self) -> int:
        if self._device.type == "cpu":
            return self._kv_tokens
        return self._kv_tokens - sum(slab.rows * slab.room for slabs in self._slabs.values() for slab in slabs)

    def forget(self, slot: int) -> None:
        """Free the request's room. What was in it is wiped: the next may not meet another's numbers."""
        place = self._places.pop(slot, None)
        if place is None:
            return
        slab, start = place.slab, place.row * place.slab.room
        slab.used[place.row] = None
        end = start + self._fill.pop(slot)
        if not any(used is not None for used in slab.used):
            slabs = self._slabs[slab.room]
            slabs.remove(slab)
            if not slabs:
                del self._slabs[slab.room]
            return
        for layer in slab.layers:
            if layer is not None:
                layer[0][start:end].zero_()
                layer[1][start:end].zero_()

    def holds(self, slot: int) -> _Place | None:
        """The request's place, the same as long as it has one. Thread-safe, as `read` is."""
        return self._places.get(slot)

    def read(self, place: _Place, layer: int, values: bool, first: int, end: int) -> torch.Tensor:
        """Keys or values of tokens [first, end) as they lie there, (tokens, KV heads, head dim). NoKv if the layer has none.
        They are the request's if it holds the place when they have been used."""
        tensors = place.slab.layers[layer]
        if tensors is None or end > place.slab.room:
            raise NoKv(f"layer {layer} of the stage has no KV cache of {end} tokens")
        start = place.row * place.slab.room
        return tensors[values][start + first : start + end]

    def suits(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether these are of the layer's kind, as far as that is known."""
        made = [slab.layers[layer] for slabs in self._slabs.values() for slab in slabs]
        return all(alike(had, (keys, values)) for had in made if had is not None)

    def fill(self, slot: int, room: int, first: int, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Have each layer's keys and values (tokens, KV heads, head dim) as the request's, whose first is token `first`."""
        self.place(slot, room)
        place = self._places[slot]
        for layer, (keys, values) in enumerate(layers):
            end = first + len(keys)
            keys, values = (t.to(self._device, non_blocking=True) for t in (keys, values))
            place.slab.tensors(layer, keys.transpose(0, 1)[None], values.transpose(0, 1)[None])
            self.read(place, layer, False, first, end).copy_(keys)
            self.read(place, layer, True, first, end).copy_(values)
            self._fill[slot] = max(self._fill[slot], end)

    def plan(self, segments: Sequence[Segment]) -> StepPlan:
        """Prepare a step. Requests that come for the first time get their rooms."""
        starts, at = [], 0
        for segment in segments:
            self.place(segment.slot, segment.room)
            self._fill[segment.slot] = max(self._fill[segment.slot], segment.position + segment.tokens)
            starts.append(at)
            at += segment.tokens
        positions = torch.cat([torch.arange(s.position, s.position + s.tokens) for s in segments])
        last = [start + s.tokens - 1 for start, s in zip(starts, segments, strict=True) if s.wanted]
        prefills = [
            Prefill(self._places[s.slot].slab, self._places[s.slot].row, start, s.tokens, s.position)
            for start, s in zip(starts, segments, strict=True)
            if not _decodes(s)
        ]
        return StepPlan(
            segments,
            positions[None].to(self._device),
            torch.tensor(last, dtype=torch.int64, device=self._device),
            self._writes(segments, starts),
            self._decodes(segments, starts),
            prefills,
        )

    def _writes(self, segments: Sequence[Segment], starts: Sequence[int]) -> list[Write]:
        by_slab: dict[int, tuple[Slab, list[int], list[int]]] = {}
        for start, segment in zip(starts, segments, strict=True):
            place = self._places[segment.slot]
            _, take, to = by_slab.setdefault(id(place.slab), (place.slab, [], []))
            first = place.row * place.slab.room + segment.position
            take += range(start, start + segment.tokens)
            to += range(first, first + segment.tokens)
        alone = len(by_slab) == 1
        return [
            Write(slab, None if alone else self._index(take), self._index(to)) for slab, take, to in by_slab.values()
        ]

    def _decodes(self, segments: Sequence[Segment], starts: Sequence[int]) -> list[Decode]:
        by_slab: dict[int, list[tuple[int, int, int]]] = {}
        for start, segment in zip(starts, segments, strict=True):
            if _decodes(segment):
                place = self._places[segment.slot]
                by_slab.setdefault(id(place.slab), []).append((place.row, start, segment.position + 1))
        slabs = {id(place.slab): place.slab for place in self._places.values()}
        found: list[Decode] = []
        for key, entries in by_slab.items():
            runs = _runs(sorted(entries))
            found += [self._decode(slabs[key], run, whole=len(run) == len(segments)) for run in runs]
        return found

    def _decode(self, slab: Slab, run: Sequence[tuple[int, int, int]], whole: bool) -> Decode:
        first, end = run[0][0], run[-1][0] + 1
        lengths = [1] * (end - first)
        for row, _, length in run:
            lengths[row - first] = length
        dense = end - first == len(run)
        in_order = whole and [start for _, start, _ in run] == list(range(len(run)))
        return Decode(
            slab, first, end,
            None if in_order else self._index([start for _, start, _ in run]),
            None if dense else self._index([row - first for row, _, _ in run]),
            torch.tensor(lengths, device=self._device),
            max(lengths),
            min(lengths) == max(lengths),
        )  # fmt: skip

    def _index(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def alike(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Whether two layers' keys and values are of one kind, but for the number of tokens."""
    return all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def _decodes(segment: Segment) -> bool:
    return segment.tokens == 1 and segment.position > 0


def _runs(entries: Sequence[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Rows that one call can attend to without reading more rows in vain than it needs."""
    runs: list[list[tuple[int, int, int]]] = []
    for entry in entries:
        if runs and entry[0] - runs[-1][-1][0] <= 2:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs
