"""KV cache out of a stage's memory and into another's: the same bytes, of the request that was asked about, of no other."""

from collections.abc import Callable

import pytest
import torch

from cluster.errors import NoKv
from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.moving import reading as reading_module
from cluster.stage.moving.reading import Reading
from cluster.stage.moving.shelf import UNCLAIMED_S, Kept, Shelf
from cluster.stage.steps import Segment
from cluster.wire.kv import AskKv, KvHead
from tests.device import DEVICE

_LAYERS, _TOKENS, _ROOM = 3, 50, 64
_Cache = SlabCache | PagedCache
_both = pytest.mark.parametrize("make", [SlabCache, PagedCache])


def _layers(
    seed: int = 1, dtype: torch.dtype = torch.float32, tokens: int = _TOKENS, key_dim: int = 8, value_dim: int = 8
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    chance = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(tokens, 2, key_dim, generator=chance).to(dtype),
         torch.randn(tokens, 2, value_dim, generator=chance).to(dtype))
        for _ in range(_LAYERS)
    ]  # fmt: skip


def _stream() -> "torch.cuda.Stream | None":
    return torch.cuda.Stream(DEVICE) if DEVICE.type == "cuda" else None


def _read(cache: _Cache, tokens: int, slot: int = 1, first: int = 0, end: int = _LAYERS) -> tuple[KvHead, bytes]:
    reading = Reading(cache, 0, AskKv(slot, tokens, first, end), _stream())
    return reading.head, b"".join(bytes(reading.read(piece)) for piece in reading.pieces())


def _bytes(layers: list[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> bytes:
    return b"".join(t[:tokens].contiguous().view(torch.uint8).numpy().tobytes() for layer in layers for t in layer)


@pytest.mark.gpu
@_both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("piece_bytes", [100, 1 << 20])
def test_what_is_read_is_what_was_put_there(
    make: Callable[[int, int, torch.device], _Cache],
    dtype: torch.dtype,
    piece_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In slices, beside others, with values narrower than keys, and less of it than there is."""
    monkeypatch.setattr(reading_module, "PIECE_BYTES", piece_bytes)
    cache = make(_LAYERS, 1000, DEVICE)
    others, own = _layers(2, dtype, value_dim=4), _layers(1, dtype, value_dim=4)
    for first in range(0, _TOKENS, 17):
        for slot, layers in ((7, others), (1, own), (8, others)):
            cache.fill(slot, _ROOM, first, [(k[first : first + 17], v[first : first + 17]) for k, v in layers])
    head, data = _read(cache, 41)
    assert head == KvHead(len(data), (2, 8), (2, 4), str(dtype).removeprefix("torch."))
    assert data == _bytes(own, 41)
    assert _read(cache, 41, first=1, end=2)[1] == _bytes(own[1:2], 41)


@pytest.mark.gpu
@_both
def test_a_place_is_read_as_steps_left_it(make: Callable[[int, int, torch.device], _Cache]) -> None:
    """Of a slot that a step has written to, and of none that it has not."""
    cache = make(_LAYERS, 1000, DEVICE)
    cache.plan([Segment(1, _TOKENS, 0, True, _ROOM)])
    with pytest.raises(NoKv, match="has no KV cache"):
        _read(cache, _TOKENS)
    cache.fill(1, _ROOM, 0, _layers()[:2])
    assert _read(cache, _TOKENS, end=2)[1] == _bytes(_layers()[:2], _TOKENS)
    with pytest.raises(NoKv, match="layer 2"):
        _read(cache, _TOKENS)


@pytest.mark.gpu
@_both
def test_what_is_not_there_cannot_be_read(make: Callable[[int, int, torch.device], _Cache]) -> None:
    cache = make(_LAYERS, 1000, DEVICE)
    cache.fill(1, _ROOM, 0, _layers())
    for slot, tokens in ((2, 5), (1, 0), (1, -3), (1, _ROOM + 1)):
        with pytest.raises(NoKv):
            _read(cache, tokens, slot)
    cache.forget(1)
    with pytest.raises(NoKv, match="has no request 1"):
        _read(cache, 5)


@pytest.mark.gpu
@_both
def test_a_request_that_is_over_meanwhile_is_not_read_any_more(
    make: Callable[[int, int, torch.device], _Cache],
) -> None:
    """Its room is wiped, or is another's by then."""
    cache = make(_LAYERS, 1000, DEVICE)
    cache.fill(1, _ROOM, 0, _layers(1))
    cache.fill(2, _ROOM, 0, _layers(2))
    reading = Reading(cache, 0, AskKv(1, _TOKENS, 0, _LAYERS), _stream())
    first, second, *_ = reading.pieces()
    reading.read(first)
    cache.forget(1)
    cache.fill(3, _ROOM, 0, _layers(3))
    with pytest.raises(NoKv, match="was over"):
        reading.read(second)


@pytest.mark.gpu
@_both
def test_layers_of_several_kinds_are_not_read(make: Callable[[int, int, torch.device], _Cache]) -> None:
    cache = make(_LAYERS, 1000, DEVICE)
    cache.fill(1, _ROOM, 0, [*_layers()[:2], _layers(key_dim=4)[0]])
    with pytest.raises(NoKv, match="several kinds"):
        _read(cache, 5)


@pytest.mark.gpu
@_both
def test_what_does_not_suit_a_layer_is_known(make: Callable[[int, int, torch.device], _Cache]) -> None:
    cache = make(_LAYERS, 1000, DEVICE)
    keys, values = _layers()[0]
    assert cache.suits(0, keys[:, :, :4], values), "nothing is known of it"
    cache.fill(1, _ROOM, 0, _layers())
    assert cache.suits(0, keys[:3], values[:3])
    assert not cache.suits(0, keys[:, :1], values)
    assert not cache.suits(0, keys, values.bfloat16())


def test_what_was_put_into_a_slab_is_wiped_with_it() -> None:
    cache = SlabCache(_LAYERS, 1000, torch.device("cpu"))
    for slot in (1, 2):
        cache.fill(slot, _ROOM, 0, _layers())
    place = cache.holds(1)
    assert place is not None
    cache.forget(1)
    assert not cache.read(place, 0, False, 0, _ROOM).any()


# ---- what waits to be claimed


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _kept(tokens: int = 10) -> Kept:
    return Kept(tokens, tuple(_layers(tokens=tokens)))


def test_what_is_kept_is_claimed_once() -> None:
    shelf, kept = Shelf(100), _kept()
    shelf.reserve("a", 10, 1.0)
    assert shelf.claim("a", 10) is None, "it is not there yet"
    shelf.reserve("a", 10, 1.0)
    shelf.keep("a", kept)
    assert shelf.claim("b", 10) is None
    assert shelf.claim("a", 10) is kept
    assert shelf.claim("a", 10) is None
    assert kept.size_bytes == _LAYERS * 10 * 2 * 2 * 8 * 4


def test_less_than_is_claimed_is_nothing() -> None:
    shelf = Shelf(100)
    shelf.reserve("a", 10, 1.0)
    shelf.keep("a", _kept())
    assert shelf.claim("a", 11) is None
    shelf.reserve("b", 100, 1.0)


@pytest.mark.parametrize("tokens", [0, -1, 91])
def test_no_more_is_kept_than_the_cache_could_hold(tokens: int) -> None:
    """What is claimed counts until it was given back."""
    shelf, kept = Shelf(100), _kept()
    shelf.reserve("a", 10, 1.0)
    shelf.keep("a", kept)
    with pytest.raises(NoKv, match="room for the KV cache of 90 tokens"):
        shelf.reserve("b", tokens, 1.0)
    assert shelf.claim("a", 10) is kept
    with pytest.raises(NoKv):
        shelf.reserve("b", tokens, 1.0)
    shelf.give_back(kept)
    shelf.reserve("b", 100, 1.0)


def test_what_is_dropped_is_not_kept_when_it_comes() -> None:
    shelf = Shelf(100)
    shelf.reserve("a", 60, 1.0)
    with pytest.raises(NoKv, match="here already"):
        shelf.reserve("a", 10, 1.0)
    shelf.drop("a")
    shelf.drop("a")
    with pytest.raises(NoKv, match="not wanted"):
        shelf.keep("a", _kept())
    shelf.reserve("b", 100, 1.0)


def test_what_nobody_claims_is_dropped_in_time() -> None:
    clock = _Clock()
    shelf = Shelf(100, clock)
    shelf.reserve("a", 10, 5.0)
    clock.now_s = 4.0
    shelf.keep("a", _kept())
    clock.now_s += UNCLAIMED_S
    shelf.tidy()
    assert shelf.claim("a", 10) is None
    shelf.reserve("b", 100, 5.0)
    clock.now_s += UNCLAIMED_S + 4.9
    with pytest.raises(NoKv):
        shelf.reserve("c", 100, 5.0)
    clock.now_s += 0.2
    shelf.reserve("c", 100, 5.0)
