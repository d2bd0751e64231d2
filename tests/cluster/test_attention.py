"""Attention over slabs and over pages, held against the plain formula of every token over all that its request has had."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import StageFailed
from cluster.stage.attending.attention import Attention, attend
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.paged_attention import flash_attention
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.steps import Segment
from tests.cluster.triton_kernels import attention as kernels
from tests.device import DEVICE

pytestmark = pytest.mark.gpu
_DIM = 8
_SCALE = 0.31
_TILE = kernels.TILE if DEVICE.type == "cuda" else replace(kernels.TILE, programs=16)
"""Of the interpreter's programs each takes a hundredth of a second, also one that has no tokens. So 8 requests are not
parted, and fewer are, the fewer the more."""


class Over(StrEnum):
    """What is attended over, and by what."""

    SLABS = "slabs"
    PAGES = "pages"
    PAGES_BY_KERNELS = "pages, by kernels"
    PAGES_AT_ONCE = "pages, all prompts at once"
    AS_ON_A_GPU = "pages, by kernels and flash attention"


_ANY = pytest.mark.parametrize("over", [over for over in Over if over is not Over.AS_ON_A_GPU])


def _formula(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """The last tokens' queries (heads, t, dim) over all that there is of their request, (KV heads, tokens, dim)."""
    had = keys.shape[1]
    at = torch.arange(had - query.shape[1], had)[:, None]
    before = at - torch.arange(had)
    group = query.shape[0] // keys.shape[0]
    scores = torch.einsum("htd,hsd->hts", query, keys.repeat_interleave(group, 0)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores[:, (before < 0) | (before >= (window or had))] = float("-inf")
    return torch.einsum("hts,hsd->htd", torch.softmax(scores, -1), values.repeat_interleave(group, 0))


def _flash(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, starts_q: torch.Tensor, starts_k: torch.Tensor,
    longest_q: int, longest_k: int, scale: float, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """What flash attention computes, piece by piece."""
    assert longest_q == int(starts_q.diff().max())
    assert longest_k == int(starts_k.diff().max())
    parts = []
    for (q, q_end), (k, k_end) in zip(pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True):
        of_piece = (queries[q:q_end], keys[k:k_end], values[k:k_end])
        out = _formula(*(t.transpose(0, 1) for t in of_piece), scale, window, None)
        parts.append(out.transpose(0, 1))
    return torch.cat(parts)


@dataclass(frozen=True)
class _Kind:
    """What differs between models: one window for each layer, None for all tokens."""

    dtype: torch.dtype = torch.float32
    heads: int = 4
    kv_heads: int = 2
    windows: tuple[int | None, ...] = (None,)
    softcap: float | None = None

    @property
    def tolerance(self) -> float:
        """Soft caps are followed by a softmax in float32, as in transformers."""
        if self.dtype is torch.bfloat16:
            return 3e-2
        return 1e-12 if self.dtype is torch.float64 and self.softcap is None else 1e-5


@dataclass
class _Stage:
    """A cache, and beside it every key and value by request and layer, in tensors of their own."""

    kind: _Kind
    kv_tokens: int = 10_000
    seed: int = 0
    over: Over = Over.SLABS
    tile: kernels.Tile = _TILE
    history: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make = SlabCache if self.over is Over.SLABS else PagedCache
        self.cache = make(len(self.kind.windows), self.kv_tokens, DEVICE)
        self._attention = Attention(first_layer=0)
        if self.over is Over.AS_ON_A_GPU:
            self._attention.paged.flash = flash_attention
        if self.over in (Over.PAGES_BY_KERNELS, Over.AS_ON_A_GPU):
            decode = partial(kernels.decode, tile=self.tile)
            self._attention.paged.kernels = SimpleNamespace(write=kernels.write, decode=decode)
        if self.over is Over.PAGES_AT_ONCE:
            self._attention.paged.flash = _flash
            self._attention.paged.flash_dtypes = frozenset((torch.float32, torch.float64))
        self._generator = torch.Generator().manual_seed(self.seed)

    def step(self, segments: Sequence[Segment], bad: Sequence[int] = (), bad_value: float = 0.0) -> None:
        """Attend in every layer and compare. Requests in `bad` have keys and values of `bad_value`, and are not compared."""
        kind = self.kind
        self._attention.plan = self.cache.plan(segments)
        tokens = sum(segment.tokens for segment in segments)
        of_bad = torch.tensor([segment.slot in bad for segment in segments for _ in range(segment.tokens)])
        for layer, window in enumerate(kind.windows):
            query, key, value = (self._random(n, tokens) for n in (kind.heads, kind.kv_heads, kind.kv_heads))
            key[:, :, of_bad] = value[:, :, of_bad] = bad_value
            there = (tensor.to(DEVICE) for tensor in (query, key, value))
            out = self._attention.attend(layer, *there, _SCALE, window, kind.softcap).cpu()
            assert out.shape == (1, tokens, kind.heads, _DIM)
            assert out.dtype == kind.dtype
            expected = self._expected(layer, segments, query[0], key[0], value[0])
            torch.testing.assert_close(
                out[0][~of_bad].double(), expected[~of_bad], rtol=kind.tolerance, atol=kind.tolerance
            )

    def forget(self, slot: int) -> None:
        self.cache.forget(slot)
        for layer in range(len(self.kind.windows)):
            self.history.pop((slot, layer), None)

    def _expected(
        self, layer: int, segments: Sequence[Segment], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """(tokens, heads, dim) in float64, of the step's (heads, tokens, dim)."""
        parts, start = [], 0
        for segment in segments:
            now = slice(start, start := start + segment.tokens)
            had = self.history.get((segment.slot, layer), (key[:, :0].double(), value[:, :0].double()))
            assert had[0].shape[1] == segment.position
            keys, values = (
                torch.cat([old, new[:, now].double()], 1) for old, new in zip(had, (key, value), strict=True)
            )
            self.history[segment.slot, layer] = keys, values
            kind = self.kind
            parts.append(_formula(query[:, now].double(), keys, values, _SCALE, kind.windows[layer], kind.softcap))
        return torch.cat(parts, 1).transpose(0, 1)

    def _random(self, heads: int, tokens: int) -> torch.Tensor:
        """As a model gives it: (1, heads, tokens, dim), the heads of a token side by side in memory."""
        drawn = torch.randn(1, tokens, heads, _DIM, generator=self._generator, dtype=torch.float64) * 2
        return drawn.to(self.kind.dtype).transpose(1, 2)


def _next(slot: int, position: int, room: int = 64) -> Segment:
    return Segment(slot, 1, position, True, room)


_KINDS = st.builds(
    lambda dtype, heads, windows, softcap: _Kind(dtype, *heads, windows, softcap),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([(4, 4), (4, 2), (4, 1), (6, 2)]),
    st.sampled_from([(None,), (4,), (None, 4), (16, None, 1), (40, 8)]),
    st.sampled_from([None, None, 3.0]),
)
_MIXES = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 30) | st.just(1) | st.just(1)), min_size=1, max_size=8), max_size=9
)  # fmt: skip


_BY_TORCH = st.sampled_from([Over.SLABS, Over.PAGES, Over.PAGES_AT_ONCE])


@settings(max_examples=150)
@given(_KINDS, _MIXES, st.integers(700, 2000), st.integers(0, 100), st.booleans(), _BY_TORCH)
def test_any_mix_of_prompts_pieces_and_next_tokens_equals_the_formula(
    kind: _Kind, mixes: Sequence[Sequence[tuple[int, int]]], kv_tokens: int, seed: int, in_order: bool, over: Over
) -> None:
    """Eight requests in rooms of two sizes, in slabs of few rows; who does not fit any more is followed by another.

    `in_order` as the driver arranges a step; any other order must be understood as well.
    """
    stage = _Stage(kind, kv_tokens, seed, over)
    slots, filled = {lane: lane for lane in range(8)}, dict.fromkeys(range(8), 0)
    for number, mix in enumerate(mixes):
        segments = []
        for lane, tokens in dict(mix).items():
            room = (64, 96)[lane % 2]
            if filled[lane] + tokens > room:
                stage.forget(slots[lane])
                slots[lane], filled[lane] = 100 * (number + 1) + lane, 0
            segments.append(Segment(slots[lane], tokens, filled[lane], True, room))
            filled[lane] += tokens
        if in_order:
            decodes = [s for s in segments if s.tokens == 1 and s.position]
            decodes.sort(key=lambda segment: stage.cache.place(segment.slot, segment.room))
            segments = decodes + [s for s in segments if s not in decodes]
        stage.step(segments)


@_ANY
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 5])
def test_holes_among_those_who_decode_change_nothing(window: int | None, softcap: float | None, over: Over) -> None:
    stage = _Stage(_Kind(windows=(window,), softcap=softcap), over=over)
    stage.step([Segment(slot, 3 + slot, 0, True, 64) for slot in range(8)])
    stage.step([_next(slot, 3 + slot) for slot in (0, 2, 3, 5)])
    stage.forget(1)
    stage.step([_next(slot, 3 + slot) for slot in (7, 4, 6)] + [_next(slot, 4 + slot) for slot in (0, 2)])
    stage.step([_next(0, 5), _next(2, 7), Segment(9, 20, 0, True, 64), _next(3, 7), _next(7, 11)])


@_ANY
def test_requests_of_equal_length_need_no_mask(over: Over) -> None:
    stage = _Stage(_Kind(windows=(None, 4)), over=over)
    stage.step([Segment(slot, 6, 0, True, 64) for slot in range(4)])
    for position in range(6, 10):
        stage.step([_next(slot, position) for slot in range(4)])


@_ANY
def test_a_prompt_in_pieces_with_a_window_shorter_than_a_piece(over: Over) -> None:
    """The next token in as many parts as there are at most."""
    stage = _Stage(_Kind(windows=(7, None, 64), softcap=3.0), over=over, tile=kernels.TILE)
    for position in range(0, 120, 40):
        stage.step([Segment(1, 40, position, position == 80, 192)])
    stage.step([_next(1, 120, 192)])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")  # interpreted nans
@_ANY
@pytest.mark.parametrize("left_behind", [float("nan"), float("inf")])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_who_comes_after_meets_nothing_of_who_was_there(left_behind: float, softcap: float | None, over: Over) -> None:
    """What is masked is multiplied by zero, which makes neither nan nor infinity go away."""
    stage = _Stage(_Kind(windows=(None, 4), softcap=softcap), over=over)
    stage.step([Segment(1, 60, 0, True, 64), Segment(2, 5, 0, True, 64)], bad=[1], bad_value=left_behind)
    stage.step([_next(1, 60), _next(2, 5)], bad=[1], bad_value=left_behind)
    stage.forget(1)
    stage.step([Segment(3, 2, 0, True, 64), _next(2, 6)])
    stage.step([_next(3, 2), _next(2, 7)])
    stage.step([Segment(3, 3, 3, True, 64), _next(2, 8)])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")  # interpreted nans
@_ANY
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_one_request_that_breaks_takes_nobody_along(softcap: float | None, over: Over) -> None:
    stage = _Stage(_Kind(windows=(None, 4), softcap=softcap), over=over)
    nan = float("nan")
    stage.step([Segment(slot, 4 + slot, 0, True, 64) for slot in range(3)], bad=[1], bad_value=nan)
    stage.step([_next(slot, 4 + slot) for slot in range(3)], bad=[1], bad_value=nan)
    stage.step([_next(0, 5), _next(2, 7)])


def test_kernels_are_built_for_requests_in_parts_and_for_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """By few programs: by 528 requests it took minutes where kernels are interpreted."""
    own, parts = kernels.parts_of, list[int]()

    def parts_of(*counts: int) -> int:
        parts.append(own(*counts))
        return parts[-1]

    monkeypatch.setattr(kernels, "parts_of", parts_of)
    kernels.prepare(4, 2, _DIM, _DIM, torch.float32, DEVICE)
    assert sorted(parts) == [1, 4]


@pytest.mark.parametrize("name", ["s_aux", "position_bias", "alibi"])
def test_a_model_that_needs_more_than_is_known_here_fails_instead_of_answering_wrongly(name: str) -> None:
    x = torch.zeros(1, 1, 1, _DIM)
    with pytest.raises(StageFailed, match=name):
        attend(torch.nn.Identity(), x, x, x, None, **{name: x})


@pytest.mark.skipif(DEVICE.type == "cpu", reason="flash attention is a GPU's")
@pytest.mark.parametrize("window", [None, 5, 64])
def test_in_bfloat16_a_gpu_attends_by_flash_attention_and_kernels(window: int | None) -> None:
    """Prompts at once, pieces of prompts beside next tokens, and next tokens alone."""
    stage = _Stage(_Kind(torch.bfloat16, 6, 2, (window, None)), over=Over.AS_ON_A_GPU)
    stage.step([Segment(1, 5, 0, True, 64), Segment(2, 40, 0, False, 96), Segment(3, 1, 0, True, 64)])
    stage.step([_next(1, 5), Segment(2, 20, 40, False, 96), _next(3, 1)])
    stage.step([_next(1, 6), _next(3, 2), Segment(2, 9, 60, True, 96), Segment(4, 33, 0, True, 64)])
    for step in range(4):
        stage.step([_next(1, 7 + step), _next(2, 69 + step, 96), _next(3, 3 + step), _next(4, 33 + step)])
