"""The paged cache: that it takes what was reserved and no more, and that no two requests ever share a page."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.stage.attending.paged import NOBODY, PAGE_TOKENS, PagedCache, pages_of
from cluster.stage.steps import Segment
from schedules.requests import room_tokens
from tests.device import DEVICE

pytestmark = pytest.mark.gpu


def _prompt(slot: int, tokens: int, room: int, position: int = 0) -> Segment:
    return Segment(slot, tokens, position, True, room)


@given(st.lists(st.tuples(st.integers(1, 700), st.booleans()), max_size=60), st.integers(1, 700))
def test_whoever_fits_by_tokens_finds_pages(arrivals: Sequence[tuple[int, bool]], kv_tokens: int) -> None:
    """Requests come while the sum of their rooms allows it, as they are admitted; now and then the oldest leaves."""
    cache = PagedCache(1, kv_tokens, DEVICE)
    rooms: dict[int, int] = {}
    for slot, (tokens, leaves) in enumerate(arrivals):
        if leaves and rooms:
            oldest = next(iter(rooms))
            cache.forget(oldest)
            del rooms[oldest]
        room = room_tokens(tokens, kv_tokens)
        if tokens <= kv_tokens and sum(rooms.values()) + room <= kv_tokens:
            cache.place(slot, room)
            rooms[slot] = room
        places = [
            place for slot, room in rooms.items() for place in cache.plan([_prompt(slot, room, room)]).to.tolist()
        ]
        assert len(set(places)) == len(places) == sum(rooms.values())
        assert all(PAGE_TOKENS <= place < cache.arena.tokens for place in places), "page 0 belongs to nobody"
        assert len({cache.row(slot) for slot in rooms} | {NOBODY}) == len(rooms) + 1
        assert cache.slots == len(rooms)


@given(st.integers(1, 5000), st.integers(1, 4), st.integers(1, 4), st.integers(1, 16))
def test_memory_is_what_was_reserved_and_one_page(kv_tokens: int, layers: int, kv_heads: int, dim: int) -> None:
    cache = PagedCache(layers, kv_tokens, DEVICE)
    kind = torch.zeros(1, kv_heads, 1, dim, device=DEVICE)
    for layer in range(layers):
        for tensor in cache.arena.tensors(layer, kind, kind):
            assert len(tensor) == (pages_of(kv_tokens) + 1) * PAGE_TOKENS
    token_bytes = 2 * layers * kv_heads * dim * 4
    assert cache.arena.size_bytes == (pages_of(kv_tokens) + 1) * PAGE_TOKENS * token_bytes
    assert cache.arena.size_bytes < (kv_tokens + 2 * PAGE_TOKENS) * token_bytes


def test_nothing_is_taken_before_a_layer_computes() -> None:
    cache = PagedCache(2, 10_000, DEVICE)
    cache.plan([_prompt(1, 40, 64)])
    assert cache.arena.size_bytes == 0


def test_a_request_keeps_its_room_and_the_unknown_is_nobodys() -> None:
    cache = PagedCache(1, 1000, DEVICE)
    first = cache.place(1, 64)
    assert cache.place(2, 96) != first
    assert cache.place(1, 64) == first
    cache.forget(3)
    assert cache.slots == 2


def test_the_table_names_the_pages_of_each_request() -> None:
    cache = PagedCache(1, 1000, DEVICE)
    plan = cache.plan([_prompt(1, 70, 96), _prompt(2, 3, 64)])
    pages = cache.table[cache.row(1), :3].tolist()
    expected = [pages[at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS for at in range(70)]
    assert plan.to[:70].tolist() == expected


def test_the_table_grows_with_the_requests_that_run() -> None:
    cache = PagedCache(1, 64 * 600, DEVICE)
    before = cache.table
    orders = [cache.place(slot, 64) for slot in range(600)]
    assert len(set(orders)) == 600
    assert len(cache.table) > 600
    rows = [cache.row(slot) for slot in range(600)]
    assert torch.equal(cache.table[rows[3]], before[rows[3]]), "what was there stays"
    pages = cache.table[rows][:, :2]
    assert len(set(pages.flatten().tolist())) == 1200


@pytest.mark.parametrize(("longest", "reach"), [(2, 32), (33, 64), (64, 64), (65, 128), (300, 320)])
def test_rows_are_looked_at_up_to_a_few_lengths(longest: int, reach: int) -> None:
    """So few that a step which is told to the device beforehand serves many lengths."""
    cache = PagedCache(1, 320, DEVICE)
    cache.plan([_prompt(1, 1, 320)])
    plan = cache.plan([Segment(1, 1, longest - 1, True, 320)])
    assert plan.decode is not None
    assert plan.decode.reach == reach


def test_prompts_stand_in_a_row_with_what_they_attend_to() -> None:
    cache = PagedCache(1, 1000, DEVICE)
    cache.plan([_prompt(1, 5, 64), _prompt(2, 9, 64), _prompt(3, 4, 64)])
    fresh = cache.plan([_prompt(4, 5, 64), _prompt(5, 2, 64)]).prompts
    assert fresh is not None
    assert (fresh.take, fresh.at) == (None, None)
    assert fresh.starts_q.tolist() == fresh.starts_k.tolist() == [0, 5, 7]
    plan = cache.plan([Segment(1, 1, 5, True, 64), _prompt(2, 3, 64, 9), _prompt(6, 2, 64)])
    assert plan.prompts is not None
    assert plan.prompts.take is not None
    assert plan.prompts.at is not None
    assert plan.prompts.take.tolist() == [1, 2, 3, 4, 5]
    assert plan.prompts.starts_q.tolist() == [0, 3, 5]
    assert plan.prompts.starts_k.tolist() == [0, 12, 14]
    assert plan.prompts.at[9:12].tolist() == plan.to[1:4].tolist()
    assert (plan.prompts.longest_q, plan.prompts.longest_k) == (3, 12)
    assert plan.decode is not None
    assert plan.decode.take is not None
    assert plan.decode.take.tolist() == [0]
